"""Search for the nearest codebook entry, with or without regard to its code length."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 128
"""Block length of the minimum search; used if it divides the codebook size."""


class Nearest(NamedTuple):
    """Result of a search: two tensors `[...]`."""

    indices: Tensor
    """int64."""
    cost: Tensor
    """float32: squared distance minus `|x|^2`, plus rate weight times code length."""


class Codebook(nn.Module):
    """A table of `size` entries of width `dim`, float32.

    The search is `argmin(|c|^2 - 2 x.c)`, always in float32 and with ties to the lowest index, so
    that all processes select the same entry. With a rate weight, it is entropy-constrained (Chou,
    Lookabaugh and Gray, 1989): rate weight times code length is added to the distance.
    """

    usage: Tensor
    importance: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.zeros(size, dim))
        self.register_buffer("usage", torch.ones(size))
        """Relative frequency of each entry, not normalised; determines the code lengths."""
        self.register_buffer("importance", torch.ones(size))
        """Weight of squared errors on tokens whose first-stage entry is this one; mean 1."""

    def length_bits(self) -> Tensor:
        """Ideal code length of every entry in bits, float32 `[size]`."""
        # An entry that never occurs gets a long code instead of an infinite one.
        usage = self.usage.clamp(min=1e-3)
        return torch.log2(usage.sum() / usage)

    def search(self, latents: Tensor, rate_weight: Tensor | None = None) -> Nearest:
        """Nearest entries of latents `[..., dim]`; `rate_weight` is `[...]`, one per vector."""
        with torch.autocast(latents.device.type, enabled=False), torch.no_grad():
            entries = self.entries.float()
            flat = latents.detach().float().reshape(-1, entries.shape[1])
            # |c|^2 - 2 x.c, [M, size]; |x|^2 is left out, because it is the same for all entries.
            scores = torch.addmm(entries.square().sum(1), flat, entries.T, alpha=-2)
            if rate_weight is not None:
                # Adds the outer product in place: `scores` is the largest tensor of the search.
                scores.addr_(rate_weight.reshape(-1).float(), self.length_bits())
            indices, cost = _argmin(scores)
        shape = latents.shape[:-1]
        return Nearest(indices.reshape(shape), cost.reshape(shape))

    def encode(self, latents: Tensor) -> Tensor:
        """Index of the nearest entry, int64 `[...]`, of latents `[..., dim]`."""
        return self.search(latents).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Entries `[..., dim]` of indices `[...]`."""
        return self.entries[indices]


def _argmin(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Index and value of each row's minimum, `[M, size]` to `[M]` each; the first of equals."""
    size = scores.shape[1]
    if size % BLOCK or size == BLOCK:
        value, index = scores.min(1)
        return index, value
    # On CPUs `amin` is vectorised and `argmin` is not, so argmin runs on two short axes only: the
    # minima of the blocks, then the block with the least one.
    blocks = scores.reshape(len(scores), -1, BLOCK)  # [M, size / BLOCK, BLOCK]
    block = blocks.amin(2).argmin(1)
    block_scores = blocks[torch.arange(len(scores), device=scores.device), block]  # [M, BLOCK]
    value, offset = block_scores.min(1)
    return block * BLOCK + offset, value
