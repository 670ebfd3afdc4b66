"""Semi-hard triplets by pseudo-labels, for the contrastive stage (EdgeVL, section 3.3)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aligned_vq.errors import TrainingError

_ANCHORS_AT_ONCE = 1024


class Triplets(NamedTuple):
    """Anchors with a positive and up to J negatives each, as indices of images, int64."""

    anchors: Tensor
    """`[A]`."""
    positives: Tensor
    """`[A]`: the nearest other image of the anchor's label."""
    negatives: Tensor
    """`[A, J]`: images of other labels; -1 where there are fewer than J."""


def mine_triplets(
    embeddings: Tensor, labels: Tensor, margin: float, count: int, rng: np.random.Generator
) -> Triplets:
    """Triplets of all images that have any.

    A negative is semi-hard: farther than the positive, by less than the margin (FaceNet, CVPR
    2015). Which of them are taken is random, so that another mining finds others.

    Args:
        embeddings: unit vectors `[N, D]` of deterministic views.
        labels: int64 `[N]`.
        margin: m.
        count: J, the most negatives of an anchor.
        rng: chooses among negatives.

    Raises:
        TrainingError: no image has both a positive and a negative.
    """
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    parts = [
        _mine(
            embeddings,
            labels,
            torch.arange(first, min(first + _ANCHORS_AT_ONCE, len(labels))),
            margin,
            count,
            generator,
        )
        for first in range(0, len(labels), _ANCHORS_AT_ONCE)
    ]
    mined = Triplets(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
    if not len(mined.anchors):
        raise TrainingError(
            f"expected triplets among {len(labels)} images of {len(set(labels.tolist()))} labels "
            f"within a margin of {margin}, found none: keep more images, or take a larger margin"
        )
    return mined


def _mine(
    embeddings: Tensor,
    labels: Tensor,
    anchors: Tensor,
    margin: float,
    count: int,
    generator: torch.Generator,
) -> Triplets:
    distances = torch.cdist(embeddings[anchors], embeddings)
    same = labels[anchors, None] == labels[None]
    itself = anchors[:, None] == torch.arange(len(labels))
    to_positive, positives = distances.masked_fill(~same | itself, torch.inf).min(1)
    nearest = to_positive[:, None]
    semi_hard = ~same & (distances > nearest) & (distances < nearest + margin)
    # Random order among those that qualify; the others come last.
    order = torch.rand(distances.shape, generator=generator).masked_fill(~semi_hard, -1)
    chosen_order, negatives = order.topk(min(count, len(labels)), dim=1)
    negatives = negatives.masked_fill(chosen_order < 0, -1)
    usable = to_positive.isfinite() & (negatives[:, 0] >= 0)
    return Triplets(anchors[usable], positives[usable], negatives[usable])


def triplet_loss(anchor: Tensor, positive: Tensor, negative: Tensor, margin: float) -> Tensor:
    """Mean of `[d(a, p) - d(a, n) + m]_+` over rows `[T, D]` of unit vectors, d Euclidean."""
    to_positive = (anchor - positive).norm(dim=-1)
    to_negative = (anchor - negative).norm(dim=-1)
    loss: Tensor = (to_positive - to_negative + margin).clamp(min=0).mean()
    return loss
