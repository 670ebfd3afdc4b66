"""Nearest entry in a table of vectors."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Codebook(nn.Module):
    """A table of `size` entries of width `dim`, float32.

    The search is `argmin(|c|^2 - 2 x.c)` in float32 whatever autocast says, ties to the lowest
    index, so that edge and cloud, training and serving agree.
    """

    def __init__(self, size: int, dim: int) -> None:
        super().__init__()
        self.entries = nn.Parameter(torch.zeros(size, dim))

    def encode(self, latents: Tensor) -> Tensor:
        """Index of the nearest entry, int64 `[...]`, of latents `[..., dim]`."""
        with torch.autocast(latents.device.type, enabled=False), torch.no_grad():
            entries = self.entries.float()
            flat = latents.detach().float().reshape(-1, entries.shape[1])
            distance = torch.addmm(entries.square().sum(1), flat, entries.T, alpha=-2)
            return distance.argmin(1).reshape(latents.shape[:-1])

    def decode(self, indices: Tensor) -> Tensor:
        """Entries `[..., dim]` of indices `[...]`."""
        return self.entries[indices]
