"""Nearest entry in a table of vectors, plain or against what an entry costs to send."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn

BLOCK = 128
"""Scores of a row are reduced in blocks of this many where it divides them."""


class Nearest(NamedTuple):
    """Result of a search, both `[...]`."""

    indices: Tensor
    """int64."""
    cost: Tensor
    """`|c|^2 - 2 x.c`, the squared distance less `|x|^2`, plus the weighted length; float32."""


class Codebook(nn.Module):
    """A table of `size` entries of width `dim`, float32.

    The search is `argmin(|c|^2 - 2 x.c)` in float32 whatever autocast says, ties to the lowest
    index, so that edge and cloud, training and serving agree. With a rate weight it is
    entropy-constrained (Chou, Lookabaugh and Gray, 1989): distance plus weight times code length.
    """

    usage: Tensor
    importance: Tensor

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.zeros(size, dim))
        self.register_buffer("usage", torch.ones(size))
        """How often each entry is chosen, in any unit: gives the code lengths."""
        self.register_buffer("importance", torch.ones(size))
        """What a squared error is worth on tokens whose first entry is this one; 1 on average."""

    def length_bits(self) -> Tensor:
        """Ideal code length of every entry, `[size]` float32."""
        usage = self.usage.clamp(min=1e-3)
        return torch.log2(usage.sum() / usage)

    def search(self, latents: Tensor, rate_weight: Tensor | None = None) -> Nearest:
        """Nearest entries of latents `[..., dim]`; `rate_weight` `[...]` is per vector."""
        with torch.autocast(latents.device.type, enabled=False), torch.no_grad():
            entries = self.entries.float()
            flat = latents.detach().float().reshape(-1, entries.shape[1])
            scores = torch.addmm(entries.square().sum(1), flat, entries.T, alpha=-2)
            if rate_weight is not None:
                scores.addr_(rate_weight.reshape(-1).float(), self.length_bits())
            indices, cost = _least(scores)
        shape = latents.shape[:-1]
        return Nearest(indices.reshape(shape), cost.reshape(shape))

    def encode(self, latents: Tensor) -> Tensor:
        """Index of the nearest entry, int64 `[...]`, of latents `[..., dim]`."""
        return self.search(latents).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Entries `[..., dim]` of indices `[...]`."""
        return self.entries[indices]


def _least(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Place and value of each row's least score, `[M, size]` to `[M]`; the first of equals.

    A minimum alone vectorises, and finding its place does not: the place is looked for only inside
    the block that holds the minimum.
    """
    size = scores.shape[1]
    if size % BLOCK or size == BLOCK:
        value, place = scores.min(1)
        return place, value
    blocks = scores.reshape(len(scores), -1, BLOCK)
    block = blocks.amin(2).argmin(1)
    inside = blocks[torch.arange(len(scores), device=scores.device), block]
    value, place = inside.min(1)
    return block * BLOCK + place, value
