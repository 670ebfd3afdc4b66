"""Confidence intervals of the difference between two ways of sending the same images.

Answers about one image are correlated, because all depend on the quality of its features.
Therefore whole images are resampled, not single questions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 2000
_PERCENTILES = (2.5, 97.5)
_IMAGES_PER_BATCH = 2**22  # 8 bytes each, bounds the memory of the resampling


class Interval(NamedTuple):
    """A difference of two accuracies with its 95 % confidence interval."""

    mean: float
    """The observed difference."""
    low: float
    high: float


def paired_difference(
    ours: NDArray[np.bool_],
    reference: NDArray[np.bool_],
    clusters: NDArray[np.integer],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """Accuracy of `ours` minus that of `reference`, with a percentile bootstrap over clusters.

    Args:
        ours: verdicts `[Q]` of one path.
        reference: verdicts `[Q]` of another path on the same questions.
        clusters: the image of each question `[Q]`, any integers.
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no questions, or the lengths differ.
    """
    if not ours.shape == reference.shape == clusters.shape:
        raise ValueError(
            f"expected verdicts and clusters of one length, got {ours.shape}, {reference.shape} "
            f"and {clusters.shape}"
        )
    _, image = np.unique(clusters, return_inverse=True)
    # In float64, because numpy does not subtract booleans.
    differences = np.bincount(image, weights=ours.astype(np.float64) - reference)
    return count_difference(differences, np.bincount(image), resamples, seed)


def count_difference(
    differences: NDArray[np.floating] | NDArray[np.integer],
    questions: NDArray[np.integer],
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """As `paired_difference`, from counts per image.

    Args:
        differences: correct answers minus those of the reference, per image `[M]`.
        questions: number of questions per image `[M]`.
        resamples: number of bootstrap samples.
        seed: of the bootstrap.

    Raises:
        ValueError: there are no questions, or the lengths differ.
    """
    if differences.shape != questions.shape or not questions.sum():
        raise ValueError(
            f"expected counts of the same images, and some questions, got {differences.shape} and "
            f"{questions.shape} with {questions.sum()} questions"
        )
    count = len(questions)
    # A fixed seed gives the same verdicts the same interval.
    rng = np.random.default_rng(seed)
    batch_size = max(1, _IMAGES_PER_BATCH // count)
    parts = []
    for start in range(0, resamples, batch_size):
        sample = rng.integers(count, size=(min(batch_size, resamples - start), count))  # [R, M]
        totals = questions[sample].sum(1)
        # A sample may consist of images without questions and then has no mean.
        parts.append(differences[sample].sum(1)[totals > 0] / totals[totals > 0])
    low, high = np.percentile(np.concatenate(parts), _PERCENTILES)
    return Interval(float(differences.sum() / questions.sum()), float(low), float(high))
