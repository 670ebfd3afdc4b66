"""Smoothed integer counts of symbols, and the entropy models made from them.

Only integers are stored and hashed. Models are derived from them exactly, so machines with the same
counts write the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream import coders
from aligned_vq.errors import ConfigError

Counts = NDArray[np.uint32]

# The range coder's probabilities have 24 bits: larger counts would add no resolution.
MAX_COUNT = 1 << 24
RELEARN = "learn the tables again with this quantizer"

# The prior of `blend` weighs as much as this many observed symbols.
PRIOR_SYMBOLS = 8
# Fixed-point scale of counts: a prior far below one symbol is still a positive integer.
_UNITS_PER_SYMBOL = 256


class Models(dict[int, Any]):
    """The models of rows of counts, created on first use and cached.

    Args:
        rows: uint32 counts, at least two per row.
    """

    def __init__(self, rows: Sequence[Counts] | Counts) -> None:
        super().__init__()
        self._rows = rows

    # A hook of dict: cached models are found without a Python call.
    def __missing__(self, row: int) -> Any:
        model = self[row] = categorical(self._rows[row])
        return model


def categorical(counts: Counts) -> Any:
    """The model of one row of counts `[S]`, S at least 2."""
    # Integers, not probabilities: their partial sums are exact in float64 on any machine.
    return coders.CODER.categorical(counts.astype(np.float64))


def check_counts(name: str, counts: Counts, axes: Sequence[str]) -> None:
    """Raise ConfigError unless `counts` is uint32 with these axes and values 1 to MAX_COUNT."""
    if counts.dtype != np.uint32 or counts.ndim != len(axes) or 0 in counts.shape:
        raise ConfigError(
            f"{name} must be uint32 [{', '.join(axes)}], got {counts.dtype} {counts.shape}; "
            f"{RELEARN}"
        )
    if not 1 <= int(counts.min()) <= int(counts.max()) <= MAX_COUNT:
        raise ConfigError(
            f"{name} must be 1 to {MAX_COUNT}, got {int(counts.min())} to {int(counts.max())}; "
            f"{RELEARN}"
        )


def smooth(occurrences: NDArray[np.int64]) -> Counts:
    """Counts `2 c + 1` of symbols that occurred c times; a symbol that never did can be coded."""
    # Krichevsky-Trofimov: c + 1/2 for each symbol, doubled to remain an integer.
    counts = 2 * occurrences + 1
    while int(counts.max()) > MAX_COUNT:
        counts = (counts + 1) // 2  # rounded up, so that none becomes 0
    return counts.astype(np.uint32)


def blend(occurrences: NDArray[np.int64]) -> Counts:
    """Counts `[contexts, S]` of the occurrences in each context, with all contexts as the prior.

    A context without occurrences gets the distribution over all contexts; one with many gets
    practically the distribution of its occurrences.
    """
    overall = 2 * occurrences.sum(axis=0) + 1
    # Floor division of integers gives the same tables on any machine.
    prior = np.maximum(1, PRIOR_SYMBOLS * _UNITS_PER_SYMBOL * overall // overall.sum())
    counts = _UNITS_PER_SYMBOL * occurrences + prior
    while (large := counts.max(axis=1) > MAX_COUNT).any():
        counts[large] = (counts[large] + 1) // 2  # only rows that are too large
    return np.asarray(counts, np.uint32)


def ideal_bits(counts: Counts, totals: NDArray[np.integer]) -> float:
    """Total code length of n symbols in bits, from their counts `[n]` and the rows' sums `[n]`."""
    return float((np.log2(totals) - np.log2(counts)).sum())
