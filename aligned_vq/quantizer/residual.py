"""Grouped residual codebooks: each stage quantizes the remaining error of the earlier stages.

A stage may cover only some tokens, selected by rate and distortion: a token is covered if that
lowers its importance-weighted squared error by more than the rate weight times the bits of its
index. Most tokens of an image are background, for which a small first codebook is sufficient.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.codebook import Codebook, Nearest
from aligned_vq.types import QuantizerConfig


class GroupedCodebook(nn.Module):
    """One residual stage: G codebooks, each for an equal part of the latent dimensions."""

    def __init__(self, config: QuantizerConfig, stage: int) -> None:
        super().__init__()
        width = config.codebook_dim // config.num_groups
        size = config.codebook_sizes[stage]
        self.groups = nn.ModuleList(Codebook(size, width) for _ in range(config.num_groups))

    def search(self, latents: Tensor, rate_weight: Tensor | None = None) -> Nearest:
        """Indices `[..., G]` of latents `[..., d]` and their summed cost `[...]`."""
        parts = latents.chunk(len(self.groups), dim=-1)  # G tensors [..., d / G]
        pairs = zip(self.codebooks(), parts, strict=True)
        matches = [codebook.search(part, rate_weight) for codebook, part in pairs]
        indices = torch.stack([nearest.indices for nearest in matches], dim=-1)
        # The groups' squared errors add up, because their dimensions are disjoint.
        return Nearest(indices, torch.stack([nearest.cost for nearest in matches]).sum(0))

    def encode(self, latents: Tensor) -> Tensor:
        """Indices `[..., G]` int64 of latents `[..., d]`."""
        return self.search(latents).indices

    def decode(self, indices: Tensor) -> Tensor:
        """Latents `[..., d]` of indices `[..., G]`."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.cat([codebook.decode(index) for codebook, index in pairs], dim=-1)

    def length_bits(self, indices: Tensor) -> Tensor:
        """Bits `[...]` of indices `[..., G]` by the codebooks' code lengths."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.stack([codebook.length_bits()[index] for codebook, index in pairs]).sum(0)

    def importance(self, indices: Tensor) -> Tensor:
        """Weight `[...]` of squared errors on tokens with these indices `[..., G]`."""
        pairs = zip(self.codebooks(), indices.unbind(-1), strict=True)
        return torch.stack([codebook.importance[index] for codebook, index in pairs]).mean(0)

    def codebooks(self) -> list[Codebook]:
        """The G codebooks."""
        return [group for group in self.groups if isinstance(group, Codebook)]


class StageChoice(NamedTuple):
    """The indices that one stage selects for a batch."""

    indices: Tensor
    """int64 `[B, N, G]`, valid for covered tokens."""
    mask: Tensor | None
    """bool `[B, N]`, true for covered tokens; None: all are covered."""
    inputs: Tensor
    """float32 `[B, N, d]`: the error remaining before this stage."""


class ResidualCodebooks(nn.Module):
    """R stages over latents `[B, N, d]`; the first r of them can be decoded for any r."""

    def __init__(self, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.stages = nn.ModuleList(
            GroupedCodebook(config, stage) for stage in range(config.num_quantizers)
        )

    def stage(self, number: int) -> GroupedCodebook:
        """The stage of this number."""
        stage = self.stages[number]
        assert isinstance(stage, GroupedCodebook)
        return stage

    @torch.no_grad()
    def encode(
        self,
        latents: Tensor,
        stages: Sequence[int] | None = None,
        rate_weight: float | Tensor = 0.0,
    ) -> list[StageChoice]:
        """The choices of every stage up to the last of `stages` for latents `[B, N, d]`.

        Args:
            latents: vectors to quantize.
            stages: stages in use, ascending; None: all. The first one covers all tokens. A stage
                that is not in use covers none.
            rate_weight: a number or one per image `[B]`; with the number 0, every stage in use
                covers all tokens.
        """
        used = range(self.config.num_quantizers) if stages is None else stages
        remaining = latents.detach().float()
        ignore_rate = not isinstance(rate_weight, Tensor) and rate_weight == 0
        token_weight = torch.as_tensor(rate_weight, dtype=torch.float32, device=latents.device)
        token_weight = token_weight.reshape(-1, 1).expand(remaining.shape[:2])  # [B, N]
        choices: list[StageChoice] = []
        for number in range(max(used) + 1):
            if number not in used:
                # A placeholder, because the position in the list is the number of the stage.
                choices.append(self._unused_stage(remaining))
                continue
            stage = self.stage(number)
            if number == used[0] and not ignore_rate:
                # `importance * error + weight * bits` is minimal where `error + weight /
                # importance * bits` is. Importance is that of the nearest entry, without regard to
                # the rate, so that the rate weight does not change how important a token is.
                token_weight = token_weight / stage.importance(stage.search(remaining).indices)
            nearest = stage.search(remaining, None if ignore_rate else token_weight)
            mask = None
            if number != used[0] and not ignore_rate:
                # Leaving the token out costs |x|^2, which `cost` does not include.
                mask = nearest.cost < 0
            choices.append(StageChoice(nearest.indices, mask, remaining))
            entries = stage.decode(nearest.indices)
            remaining = remaining - (entries if mask is None else entries * mask[..., None])
        return choices

    def _unused_stage(self, remaining: Tensor) -> StageChoice:
        """The choice of a stage that covers no token."""
        batch, tokens, _ = remaining.shape
        device = remaining.device
        mask = torch.zeros(batch, tokens, dtype=torch.bool, device=device)
        shape = (batch, tokens, self.config.num_groups)
        return StageChoice(torch.zeros(shape, dtype=torch.int64, device=device), mask, remaining)

    def decode(self, indices: Sequence[Tensor], masks: Sequence[Tensor | None]) -> Tensor:
        """Latents `[B, N, d]`: the sum of the covering stages' entries.

        Args:
            indices: of the first stages, `[B, N, G]` each.
            masks: covered tokens `[B, N]` of each stage; None: all.
        """
        total: Tensor | None = None
        for number, (stage_indices, mask) in enumerate(zip(indices, masks, strict=True)):
            entries = self.stage(number).decode(stage_indices)
            # Tokens that are not covered have arbitrary indices, whose entries must not count.
            entries = entries if mask is None else entries * mask[..., None]
            total = entries if total is None else total + entries
        if total is None:
            raise ValueError("expected the indices of at least one stage, got none")
        return total

    def rate_bits(self, choices: Sequence[StageChoice]) -> Tensor:
        """Estimated bits of each image, `[B]`: code lengths plus binary entropy of the masks."""
        bits = torch.zeros(len(choices[0].indices), device=choices[0].indices.device)
        for number, choice in enumerate(choices):
            lengths = self.stage(number).length_bits(choice.indices)
            if choice.mask is None:
                bits = bits + lengths.sum(1)  # [B, N] to [B]
                continue
            share = choice.mask.float().mean(1).clamp(1e-6, 1 - 1e-6)  # keeps log2 finite
            # Bits of one mask bit if the bits are independent.
            entropy = -(share * share.log2() + (1 - share) * (1 - share).log2())
            bits = bits + (lengths * choice.mask).sum(1) + entropy * choice.mask.shape[1]
        return bits
