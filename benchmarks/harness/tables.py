"""Statistics of measured samples, and tables of them as Markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

Row = dict[str, Any]
"""Figures of one thing measured, JSON-able. Every list of numbers in it is raw samples."""
STATISTICS = "statistics"
"""Where a row has the statistics of its samples."""


def with_statistics(row: Mapping[str, Any]) -> Row:
    """A row with median, 95th percentile (linear between samples) and count of its samples."""
    found = {
        key: {
            "median": float(np.median(value)),
            "p95": float(np.quantile(value, 0.95)),
            "count": len(value),
        }
        for key, value in row.items()
        if _are_samples(value)
    }
    return {**row, STATISTICS: found}


def markdown(head: Sequence[str], lines: Sequence[Sequence[object]]) -> str:
    """A table; numbers to the right."""
    numeric = [bool(lines) and all(_is_number(line[n]) for line in lines) for n in range(len(head))]
    rule = ["---:" if right else "---" for right in numeric]
    rows = [head, rule, *([str(cell) for cell in line] for line in lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in rows) + "\n"


def _are_samples(value: Any) -> bool:
    return (
        isinstance(value, list) and bool(value) and all(type(one) in (int, float) for one in value)
    )


def _is_number(cell: object) -> bool:
    text = str(cell).replace(",", "").strip(" -%x")
    return not text or text.replace(".", "", 1).isdigit()
