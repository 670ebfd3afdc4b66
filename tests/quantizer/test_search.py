"""The search for the nearest entry: what float64 finds, except where float32 cannot tell."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from aligned_vq.quantizer.codebook import Codebook
from benchmarks.speed.nearest_entry import differences


def codebook(entries: Tensor) -> Codebook:
    made = Codebook(*entries.shape).requires_grad_(False)
    made.entries.copy_(entries)
    return made


def noise(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("offset", [0.0, 10.0])
@pytest.mark.parametrize(("size", "dim"), [(4096, 32), (100, 7), (2, 64)])
def test_the_indices_are_those_of_float64_except_at_ties(
    size: int, dim: int, offset: float, autocast: bool
) -> None:
    """An offset costs the scores digits that the distances do not have."""
    entries = noise(size, dim, seed=1) + offset
    latents = noise(577, dim, seed=2) + offset
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        indices = codebook(entries).encode(latents)
    found = differences(latents, entries, indices)
    assert found.beyond_ties == 0
    assert found.indices <= 2


def test_a_wrong_index_is_not_taken_for_a_tie() -> None:
    entries, latents = noise(256, 16, seed=3), noise(40, 16, seed=4)
    indices = codebook(entries).encode(latents)
    indices[5] = (indices[5] + 1) % 256
    found = differences(latents, entries, indices)
    assert (found.indices, found.beyond_ties) == (1, 1)
    assert found.largest_gap > 0.01


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("size", [64, 4096])
@pytest.mark.parametrize("tokens", [1, 577])
def test_of_equal_entries_the_first_is_taken(tokens: int, size: int, autocast: bool) -> None:
    half = noise(size // 2, 32, seed=5)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(6))
    entries = half.repeat(2, 1)[order]
    latents = noise(tokens, 32, seed=7)
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        indices = codebook(entries).encode(latents)
    equal = (entries[indices][:, None] == entries).all(-1)
    assert (equal.sum(1) == 2).all()
    assert torch.equal(indices, equal.int().argmax(1))


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("size", [5, 100, 4096])
def test_of_entries_as_far_the_first_is_taken(size: int, autocast: bool) -> None:
    """Small integers, so that every distance is exact and many are equal."""
    draw = torch.Generator().manual_seed(8)
    entries = torch.randint(-3, 4, (size, 4), generator=draw).float()
    latents = torch.randint(-3, 4, (577, 4), generator=draw).float()
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        indices = codebook(entries).encode(latents)
    distances = (latents[:, None] - entries).square().sum(-1)
    assert torch.equal(indices, distances.argmin(1))
