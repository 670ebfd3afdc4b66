"""Grouped residual codebooks: each stage quantizes what the stages before it left over."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.codebook import Codebook
from aligned_vq.types import QuantizerConfig


class GroupedCodebook(nn.Module):
    """One residual stage: G codebooks, each over its share of the latent dimensions."""

    def __init__(self, config: QuantizerConfig, stage: int) -> None:
        super().__init__()
        width = config.codebook_dim // config.num_groups
        size = config.codebook_sizes[stage]
        self.groups = nn.ModuleList(Codebook(size, width) for _ in range(config.num_groups))

    def encode(self, latents: Tensor) -> Tensor:
        """Indices `[..., G]` int64 of latents `[..., d]`."""
        parts = latents.chunk(len(self.groups), dim=-1)
        pairs = zip(self.codebooks(), parts, strict=True)
        return torch.stack([codebook.encode(part) for codebook, part in pairs], dim=-1)

    def decode(self, indices: Tensor) -> Tensor:
        """Latents `[..., d]` of indices `[..., G]`."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.cat([codebook.decode(own) for codebook, own in pairs], dim=-1)

    def codebooks(self) -> list[Codebook]:
        """The G codebooks."""
        return [group for group in self.groups if isinstance(group, Codebook)]


class ResidualCodebooks(nn.Module):
    """R stages over latents `[B, N, d]`. Any first r of them decode."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            GroupedCodebook(config, stage) for stage in range(config.num_quantizers)
        )

    def stage(self, number: int) -> GroupedCodebook:
        """One stage."""
        found = self.stages[number]
        assert isinstance(found, GroupedCodebook)
        return found

    def encode(
        self, latents: Tensor, num_quantizers: int | None = None, shares: Sequence[float] = ()
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Indices and masks of the first `num_quantizers` stages (default: all).

        `shares[s]` is the share of tokens that stage s covers, 1 for all and by default; stages
        below 1 cover, image by image, the tokens with the largest remaining error. Returns per
        stage indices `[B, N, G]` int64 (valid where covered) and a mask `[B, N]`, None for all.
        """
        remaining = latents.detach().float()
        indices: list[Tensor] = []
        masks: list[Tensor | None] = []
        for number in range(num_quantizers or self.config.num_quantizers):
            share = shares[number] if number < len(shares) else 1.0
            mask = None if share >= 1 else _largest(remaining.square().sum(-1), share)
            chosen = self.stage(number).encode(remaining)
            step = self.stage(number).decode(chosen).detach()
            remaining = remaining - (step if mask is None else step * mask[..., None])
            indices.append(chosen)
            masks.append(mask)
        return indices, masks

    def decode(self, indices: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """Sum of the stages' entries where they cover, `[B, N, d]`."""
        total: Tensor | None = None
        for number, (own, mask) in enumerate(zip(indices, masks, strict=True)):
            step = self.stage(number).decode(own)
            step = step if mask is None else step * mask[..., None]
            total = step if total is None else total + step
        if total is None:
            raise ValueError("decode needs the indices of at least one stage")
        return total


def _largest(error: Tensor, share: float) -> Tensor:
    """Mask `[B, N]` of the `share` of tokens with the largest error, ties to the first token."""
    count = round(share * error.shape[1])
    order = error.argsort(dim=1, descending=True, stable=True)[:, :count]
    return torch.zeros_like(error, dtype=torch.bool).scatter(1, order, True)
