"""Grouped residual codebooks: each stage quantizes what the stages before it left over.

A stage may cover only some tokens. Which ones is decided by rate and distortion: a token is covered
when that lowers its squared error, weighted by its importance, by more than the rate weight times
the bits of its index. Most tokens of a picture are background and are content with a small first
codebook.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.codebook import Codebook, Nearest
from aligned_vq.types import QuantizerConfig


class GroupedCodebook(nn.Module):
    """One residual stage: G codebooks, each over its share of the latent dimensions."""

    def __init__(self, config: QuantizerConfig, stage: int) -> None:
        super().__init__()
        width = config.codebook_dim // config.num_groups
        size = config.codebook_sizes[stage]
        self.groups = nn.ModuleList(Codebook(size, width) for _ in range(config.num_groups))

    def search(self, latents: Tensor, rate_weight: Tensor | None = None) -> Nearest:
        """Indices `[..., G]` of latents `[..., d]` and their summed cost `[...]`."""
        parts = latents.chunk(len(self.groups), dim=-1)
        pairs = zip(self.codebooks(), parts, strict=True)
        found = [codebook.search(part, rate_weight) for codebook, part in pairs]
        indices = torch.stack([nearest.indices for nearest in found], dim=-1)
        return Nearest(indices, torch.stack([nearest.cost for nearest in found]).sum(0))

    def encode(self, latents: Tensor) -> Tensor:
        """Indices `[..., G]` int64 of latents `[..., d]`."""
        return self.search(latents).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Latents `[..., d]` of indices `[..., G]`."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.cat([codebook.decode(own) for codebook, own in pairs], dim=-1)

    def length_bits(self, indices: Tensor) -> Tensor:
        """Bits `[...]` of indices `[..., G]` by the codebooks' code lengths."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.stack([codebook.length_bits()[own] for codebook, own in pairs]).sum(0)

    def importance(self, indices: Tensor) -> Tensor:
        """What squared errors are worth, `[...]`, on tokens with these indices `[..., G]`."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.stack([codebook.importance[own] for codebook, own in pairs]).mean(0)

    def codebooks(self) -> list[Codebook]:
        """The G codebooks."""
        return [group for group in self.groups if isinstance(group, Codebook)]


class StageChoice(NamedTuple):
    """What one stage says of a batch."""

    indices: Tensor
    """int64 `[B, N, G]`, meaningful where covered."""
    mask: Tensor | None
    """bool `[B, N]` of covered tokens; None: all."""
    inputs: Tensor
    """`[B, N, d]` float32: what was left for this stage to quantize."""


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

    @torch.no_grad()
    def encode(
        self,
        latents: Tensor,
        stages: Sequence[int] | None = None,
        rate_weight: float | Tensor = 0.0,
    ) -> list[StageChoice]:
        """What every stage up to the last of `stages` (default: all) says of latents `[B, N, d]`.

        The first of `stages` covers all tokens, and so does every one at `rate_weight` 0; others
        cover what is worth its bits. Stages left out cover nothing. `rate_weight` is a number or
        one per image, `[B]`.
        """
        used = range(self.config.num_quantizers) if stages is None else stages
        remaining = latents.detach().float()
        free = not isinstance(rate_weight, Tensor) and rate_weight == 0
        price = torch.as_tensor(rate_weight, dtype=torch.float32, device=latents.device)
        price = price.reshape(-1, 1).expand(remaining.shape[:2])
        choices: list[StageChoice] = []
        for number in range(max(used) + 1):
            stage = self.stage(number)
            if number not in used:
                nothing = torch.zeros(remaining.shape[:2], dtype=torch.bool, device=latents.device)
                groups = self.config.num_groups
                blank = torch.zeros(
                    *nothing.shape, groups, dtype=torch.int64, device=nothing.device
                )
                choices.append(StageChoice(blank, nothing, remaining))
                continue
            if number == used[0] and not free:
                # What a token is worth is told by its nearest entry, whatever is sent in the end.
                price = price / stage.importance(stage.search(remaining).indices)
            found = stage.search(remaining, None if free else price)
            mask = None
            if number != used[0] and not free:
                mask = found.cost < 0  # less error than before by more than the bits are worth
            choices.append(StageChoice(found.indices, mask, remaining))
            step = stage.decode(found.indices)
            remaining = remaining - (step if mask is None else step * mask[..., None])
        return choices

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

    def rate_bits(self, choices: Sequence[StageChoice]) -> Tensor:
        """Estimated bits of each image, `[B]`: code lengths, and the masks' binary entropy."""
        bits = torch.zeros(len(choices[0].indices), device=choices[0].indices.device)
        for number, choice in enumerate(choices):
            lengths = self.stage(number).length_bits(choice.indices)
            if choice.mask is None:
                bits = bits + lengths.sum(1)
                continue
            share = choice.mask.float().mean(1).clamp(1e-6, 1 - 1e-6)
            entropy = -(share * share.log2() + (1 - share) * (1 - share).log2())
            bits = bits + (lengths * choice.mask).sum(1) + entropy * choice.mask.shape[1]
        return bits
