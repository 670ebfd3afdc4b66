"""Statistics of codebook usage."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.types import Encoded, QuantizerConfig

CURVE_POINTS = 256
"""Maximum number of points in the curve of a codebook's usage."""


@dataclass(frozen=True)
class CodebookUsage:
    """Usage of one codebook over many images."""

    stage: int
    group: int
    size: int
    """Number of entries."""
    dead: int
    """Number of entries that were never used."""
    covered: float
    """Fraction of all tokens that the stage covers."""
    perplexity: float
    """2 to the power of the indices' entropy: the effective number of entries; 0 if no token is
    covered."""

    @property
    def dead_share(self) -> float:
        """Fraction of entries that were never used."""
        return self.dead / self.size

    @property
    def bits_per_token(self) -> float:
        """Entropy of the indices, averaged over all tokens, covered or not; without masks."""
        return self.covered * float(np.log2(self.perplexity)) if self.perplexity else 0.0

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values."""
        figures = asdict(self) | {
            "dead_share": self.dead_share,
            "bits_per_token": self.bits_per_token,
        }
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in figures.items()}


def codebook_usage(
    encoded: Iterable[Encoded], codebook_sizes: Sequence[int], num_groups: int = 1
) -> tuple[CodebookUsage, ...]:
    """Usage of every codebook, ordered by stage, then group.

    Args:
        encoded: encoded images; they may have fewer stages than the codec.
        codebook_sizes: entries per stage.
        num_groups: codebooks per stage.

    Raises:
        ValueError: there is no image, or an index is out of range.
    """
    counts = [np.zeros((num_groups, size), np.int64) for size in codebook_sizes]
    tokens = 0
    for image in encoded:
        tokens += image.num_tokens
        if len(image.stages) > len(counts):
            raise ValueError(f"expected at most {len(counts)} stages, got {len(image.stages)}")
        for stage, total in zip(image.stages, counts, strict=False):  # images may have fewer
            _count(stage.indices, total)
    if not tokens:
        raise ValueError("expected at least one encoded image, got none")
    return tuple(
        _usage(number, group, row, tokens)
        for number, total in enumerate(counts)
        for group, row in enumerate(total)
    )


def usage_curves(encoded: Sequence[Encoded], config: QuantizerConfig) -> list[dict[str, Any]]:
    """Usage of the entries of every codebook, most used first.

    Args:
        encoded: encoded images.
        config: geometry of the codebooks.

    Returns:
        For each codebook in use: stage, group, size, and `shares`, the usage divided by that of
        uniform usage. For more than `CURVE_POINTS` entries, neighbours are averaged.
    """
    curves: list[dict[str, Any]] = []
    for stage, size in enumerate(config.codebook_sizes):
        rows = [image.stages[stage].indices for image in encoded if stage < len(image.stages)]
        indices = np.concatenate(rows) if rows else np.zeros((0, config.num_groups), np.int32)
        for group in range(config.num_groups if len(indices) else 0):
            counts = np.bincount(indices[:, group], minlength=size)
            parts = np.array_split(np.sort(counts)[::-1], min(size, CURVE_POINTS))
            shares = [round(float(part.mean()) * size / len(indices), 4) for part in parts]
            curves.append({"stage": stage, "group": group, "size": size, "shares": shares})
    return curves


def _count(indices: NDArray[np.int32], total: NDArray[np.int64]) -> None:
    groups, size = total.shape
    if indices.shape[1] != groups or (
        indices.size and not 0 <= indices.min() <= indices.max() < size
    ):
        raise ValueError(f"expected indices [n, {groups}] below {size}, got {indices.shape}")
    for group in range(groups):
        total[group] += np.bincount(indices[:, group], minlength=size)


def _usage(stage: int, group: int, counts: NDArray[np.int64], tokens: int) -> CodebookUsage:
    total = int(counts.sum())
    # Entries that are not used contribute nothing: p log p tends to 0.
    probabilities = counts[counts > 0] / max(1, total)
    entropy = -(probabilities * np.log2(probabilities)).sum()
    perplexity = float(np.exp2(entropy)) if total else 0.0
    dead = int((counts == 0).sum())
    return CodebookUsage(stage, group, len(counts), dead, total / tokens, perplexity)
