"""Zero-shot scores of embeddings: accuracy, calibration and the temperature of probabilities."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from aligned_vq.edgevl.pool import SIDES, PairArrays, StudentInput, embed

ECE_BINS = 15
MAX_SCALE = 316.0
"""The largest scale that is tried."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ZeroShotScore:
    """How well images match their labels' texts.

    Args:
        accuracy: share of images whose label has the largest probability.
        calibration_error: expected calibration error (Guo et al., ICML 2017), of `ECE_BINS` bins of
            equal width.
        by_label: accuracy of the images of each label.
        images: how many.
    """

    accuracy: float
    calibration_error: float
    by_label: dict[str, float]
    images: int

    def mean_over(self, labels: Sequence[str]) -> float:
        """Mean accuracy of some labels."""
        return float(np.mean([self.by_label[label] for label in labels]))


def score(probabilities: Tensor, truth: Sequence[str], labels: Sequence[str]) -> ZeroShotScore:
    """The score of probabilities `[B, L]` over `labels`; `truth` has each image's label."""
    numbers = {label: number for number, label in enumerate(labels)}
    targets = torch.tensor([numbers[label] for label in truth])
    confidence, predicted = probabilities.max(-1)
    right = predicted == targets
    by_label = {
        label: float(right[targets == number].float().mean())
        for label, number in numbers.items()
        if (targets == number).any()
    }
    error = calibration_error(confidence, right)
    return ZeroShotScore(float(right.float().mean()), error, by_label, len(targets))


def calibration_error(confidence: Tensor, right: Tensor) -> float:
    """Mean difference of confidence and accuracy over bins, weighted by their images."""
    bins = (confidence * ECE_BINS).long().clamp(0, ECE_BINS - 1)
    total = 0.0
    for number in torch.unique(bins):
        chosen = bins == number
        gap = confidence[chosen].mean() - right[chosen].float().mean()
        total += float(gap.abs()) * float(chosen.float().mean())
    return total


def probabilities_of(images: Tensor, texts: Tensor, scale: float) -> Tensor:
    """Softmax `[B, L]` of scaled cosines between unit vectors `[B, D]` and `[L, D]`."""
    return (scale * images @ texts.T).softmax(-1)


def fit_scale(cosines: Tensor, targets: Tensor) -> float:
    """The scale of cosines whose softmax has the least cross-entropy (temperature scaling).

    Args:
        cosines: `[B, L]` of images and labels' texts.
        targets: int64 `[B]`, the right label of each image; or float32 `[B, L]`, a teacher's
            probabilities. Its most probable labels alone would make a student too certain, which is
            right about what the teacher says more often than about the truth.
    """
    # Steps of 2 % in its logarithm.
    grid = torch.logspace(0, math.log10(MAX_SCALE), 251)
    losses = torch.stack(
        [torch.nn.functional.cross_entropy(scale * cosines, targets) for scale in grid]
    )
    best = int(losses.argmin())
    if best in (0, len(grid) - 1):
        _log.warning(
            "the temperature is at the end of what is tried, a scale of %.0f: do not rely on "
            "probabilities; hold out more pairs",
            grid[best],
        )
    return float(grid[best])


@dataclass(frozen=True)
class Validation:
    """Scores a student by the teacher's labels of pairs that are not trained on."""

    pairs: PairArrays
    targets: Tensor
    """int64 `[N]`: pseudo-labels."""
    texts: Tensor
    """`[L, D]`."""
    prepare: StudentInput

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """Accuracy of each modality, and their mean."""
        scores = {}
        for side in SIDES:
            images = embed(model, self.pairs, self.prepare, side)
            right = (images @ self.texts.T).argmax(1) == self.targets
            scores[side] = float(right.float().mean())
        return scores | {"mean": float(np.mean(list(scores.values())))}
