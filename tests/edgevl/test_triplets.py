"""Mining finds what the definition says, and the loss is its formula."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from aligned_vq.edgevl.triplets import mine_triplets, triplet_loss
from aligned_vq.errors import TrainingError

MARGIN = 0.3


def units(count: int, seed: int = 0) -> torch.Tensor:
    vectors = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(vectors, dim=-1)


def test_every_triplet_is_semi_hard_with_the_nearest_positive() -> None:
    vectors, labels = units(300), torch.arange(300) % 5
    mined = mine_triplets(vectors, labels, MARGIN, 3, np.random.default_rng(0))
    distances = torch.cdist(vectors, vectors)
    for anchor, positive, negatives in zip(*mined, strict=True):
        others = (labels == labels[anchor]) & (torch.arange(300) != anchor)
        nearest = distances[anchor][others].min()
        assert labels[positive] == labels[anchor]
        assert distances[anchor, positive] == nearest
        chosen = [int(n) for n in negatives if n >= 0]
        assert len(set(chosen)) == len(chosen) > 0
        for negative in chosen:
            assert labels[negative] != labels[anchor]
            assert nearest < distances[anchor, negative] < nearest + MARGIN


def test_anchors_without_a_negative_are_left_out() -> None:
    # Two pairs, each of one label and far from the other, and one image in reach of the first.
    angles = torch.tensor([0.0, 0.1, 3.0, 3.1, 0.25])
    vectors = torch.stack([angles.cos(), angles.sin()], 1)
    labels = torch.tensor([0, 0, 1, 1, 2])
    mined = mine_triplets(vectors, labels, MARGIN, 3, np.random.default_rng(0))
    assert mined.anchors.tolist() == [0, 1]
    assert mined.negatives.tolist() == [[4, -1, -1], [4, -1, -1]]


def test_the_choice_of_negatives_follows_the_generator() -> None:
    vectors, labels = units(200), torch.arange(200) % 4
    first, again, other = (
        mine_triplets(vectors, labels, MARGIN, 2, np.random.default_rng(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first.negatives, again.negatives)
    assert not torch.equal(first.negatives, other.negatives)


def test_no_triplets_is_an_error() -> None:
    with pytest.raises(TrainingError, match=r"3 images of 1 labels.*keep more images"):
        mine_triplets(units(3), torch.zeros(3), MARGIN, 3, np.random.default_rng(0))


def test_the_loss_is_a_hinge() -> None:
    anchor = torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    positive = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    negative = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    # sqrt(2) - 0 + 0.3, and 0 - 2 + 0.3 below the hinge.
    expected = (2**0.5 + MARGIN) / 2
    assert float(triplet_loss(anchor, positive, negative, MARGIN)) == pytest.approx(expected)
