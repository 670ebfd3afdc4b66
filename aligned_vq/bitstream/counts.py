"""How often things occur, as integers: kept above 0, bounded, and turned into models to code with.

Only integers are stored and hashed, and every probability is derived from them exactly, so two
machines with the same counts code the same bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.bitstream import coders
from aligned_vq.errors import ConfigError

Counts = NDArray[np.uint32]

MAX_COUNT = 1 << 24
RELEARN = "learn the tables again with this quantizer"

# What a context has seen outweighs what its stage has seen as soon as it saw this many symbols.
PRIOR_SYMBOLS = 8
# Units of a count per symbol seen, so that a prior far below one symbol is still an integer.
_UNITS = 256


class Models(dict[int, Any]):
    """The model of each row of counts, built when first asked for and kept.

    Args:
        rows: uint32 counts, each of two entries or more.
    """

    def __init__(self, rows: Sequence[Counts] | Counts) -> None:
        super().__init__()
        self._rows = rows

    def __missing__(self, row: int) -> Any:
        model = self[row] = categorical(self._rows[row])
        return model


def categorical(counts: Counts) -> Any:
    """The model of one row of counts `[S]`, two entries or more."""
    # Unnormalised integers: their partial sums are exact in float64 on any machine.
    return coders.CODER.categorical(counts.astype(np.float64))


def check_counts(name: str, counts: Counts, axes: Sequence[str]) -> None:
    """Raises ConfigError unless `counts` is uint32, has these axes, and is 1 to MAX_COUNT."""
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


def smooth(seen: NDArray[np.int64]) -> Counts:
    """Counts `2 c + 1` of what was seen c times, so that what was never seen stays codable."""
    counts = 2 * seen + 1
    while int(counts.max()) > MAX_COUNT:
        counts = (counts + 1) // 2
    return counts.astype(np.uint32)


def blend(seen: NDArray[np.int64]) -> Counts:
    """Counts `[contexts, S]` of what was seen in each context and, as a prior, in all of them.

    A context never seen has the distribution of all contexts together; one seen often has its own.
    """
    overall = 2 * seen.sum(axis=0) + 1
    prior = np.maximum(1, PRIOR_SYMBOLS * _UNITS * overall // overall.sum())
    counts = _UNITS * seen + prior
    while (large := counts.max(axis=1) > MAX_COUNT).any():
        counts[large] = (counts[large] + 1) // 2
    return np.asarray(counts, np.uint32)


def ideal_bits(counts: Counts, totals: NDArray[np.integer]) -> float:
    """Bits of symbols with these counts `[n]` under models with these sums of counts `[n]`."""
    return float((np.log2(totals) - np.log2(counts)).sum())
