"""How sure a difference between two ways of sending the same images is.

Questions about one image are not independent: they are right and wrong together when the image's
features are good or bad. So whole images are resampled, never single questions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_TAILS = (2.5, 97.5)  # percentiles that enclose 95 %
_DRAWN_AT_ONCE = 2**22  # images, 8 bytes each


class Interval(NamedTuple):
    """A difference of two shares and its 95 % interval."""

    mean: float
    """As observed."""
    low: float
    high: float


def paired_difference(
    ours: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    clusters: NDArray[np.integer],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Share of `ours` minus share of `reference`, with a percentile bootstrap over clusters.

    Args:
        ours: verdicts `[Q]` of one path.
        reference: verdicts `[Q]` of the other on the same questions, in the same order.
        clusters: the image `[Q]` that each question is about, any integers.
        resamples: of the bootstrap.
        seed: of the bootstrap; the same seed gives the same interval.

    Raises:
        ValueError: there are no questions, or the arrays are not of one length.
    """
    if not ours.shape == reference.shape == clusters.shape:
        raise ValueError(
            f"expected verdicts and clusters of one length, got {ours.shape}, {reference.shape} "
            f"and {clusters.shape}"
        )
    _, image = np.unique(clusters, return_inverse=True)
    gained = np.bincount(image, weights=ours.astype(np.float64) - reference)
    return count_difference(gained, np.bincount(image), resamples, seed)


def count_difference(
    gained: NDArray[np.floating] | NDArray[np.integer],
    asked: NDArray[np.integer],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """The same where every image has counts already.

    Args:
        gained: per image `[M]` how many more `ours` has right than the reference.
        asked: per image `[M]` how many were asked.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Raises:
        ValueError: nothing was asked, or the arrays are not of one length.
    """
    if gained.shape != asked.shape or not asked.sum():
        raise ValueError(
            f"expected counts of the same images, and some, got {gained.shape} and {asked.shape} "
            f"with {asked.sum()} asked"
        )
    count = len(asked)
    rng = np.random.default_rng(seed)
    step = max(1, _DRAWN_AT_ONCE // count)
    parts = []
    for start in range(0, resamples, step):
        drawn = rng.integers(count, size=(min(step, resamples - start), count))
        totals = asked[drawn].sum(1)
        # A resample of images without questions says nothing; at least one image has some.
        parts.append(gained[drawn].sum(1)[totals > 0] / totals[totals > 0])
    low, high = np.percentile(np.concatenate(parts), _TAILS)
    return Interval(float(gained.sum() / asked.sum()), float(low), float(high))
