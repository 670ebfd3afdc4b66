"""Statistics of measured samples, and Markdown tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
"""One measurement as a JSON object. Every list of numbers in it holds raw samples."""
STATISTICS = "statistics"
"""The key under which a row holds the statistics of its samples."""


def with_statistics(row: Mapping[str, Any]) -> Row:
    """The row with median, 95th percentile (linear interpolation) and count of its samples."""
    statistics = {
        key: {
            "median": float(np.median(value)),
            "p95": float(np.quantile(value, 0.95)),
            "count": len(value),
        }
        for key, value in row.items()
        if _are_samples(value)
    }
    return {**row, STATISTICS: statistics}


def markdown(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A Markdown table; columns that hold only numbers are aligned to the right."""
    numeric = [bool(lines) and all(_is_number(line[n]) for line in lines) for n in range(len(head))]
    rule = ["---:" if is_numeric else "---" for is_numeric in numeric]
    rows = [head, rule, *([str(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _are_samples(value: Any) -> bool:
    # `type`, not `isinstance`: True is an int, but a list of verdicts has no median.
    return (
        isinstance(value, list)
        and bool(value)
        and all(type(item) in (int, float) for item in value)
    )


def _is_number(cell: object) -> bool:
    # Empty cells, percentages and ratios belong to columns of numbers.
    text = str(cell).replace(",", "").strip(" -%x")
    return not text or text.replace(".", "", 1).isdigit()
