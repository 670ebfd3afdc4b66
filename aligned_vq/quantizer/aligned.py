"""AlignedVQ: vector quantization behind a LayerNorm, between two linear projections.

    features - position mean -> project_down (D -> d) -> residual codebooks -> latents_hat
    latents_hat -> project_up (d -> D) + position mean -> features_hat

After "Aligned Vector Quantization for Edge-Cloud Collaborative Vision-Language Models"
(arXiv 2411.05961): codebooks behind the normalisation, a dual linear projection around them. The
position mean and the second projection for the residual stream (`LearnedLink`) are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.residual import ResidualCodebooks
from aligned_vq.types import FeatureSpec, QuantizerConfig


class QuantizedLatents(NamedTuple):
    """What a training step sees of the quantizer."""

    latents_hat: Tensor
    """`[B, N, d]`; gradients pass straight through to the latents."""
    indices: list[Tensor]
    """Per stage, int64 `[B, N, G]`."""
    commitment: Tensor
    """Mean squared distance of the latents to their entries, entries held fixed."""
    codebook: Tensor
    """The same distance with the latents held fixed: moves the entries."""
    num_quantizers: int
    """Stages used in this step."""


class AlignedVQ(nn.Module):
    """Projections, position mean and codebooks of one cut; float32."""

    def __init__(self, features: FeatureSpec, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.position_mean = nn.Parameter(torch.zeros(features.num_tokens, features.dim))
        self.project_down = nn.Linear(features.dim, config.codebook_dim, bias=False)
        self.codebooks = ResidualCodebooks(config)
        self.project_up = nn.Linear(config.codebook_dim, features.dim, bias=False)

    def latents(self, features: Tensor) -> Tensor:
        """Latents `[B, N, d]` float32 of features `[B, N, D]`."""
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.project_down(features.float() - self.position_mean)
            return out

    def reconstruct(self, latents_hat: Tensor) -> Tensor:
        """Features `[B, N, D]` of latents `[B, N, d]`."""
        out: Tensor = self.project_up(latents_hat) + self.position_mean
        return out

    def encode(
        self, features: Tensor, num_quantizers: int | None = None, shares: Sequence[float] = ()
    ) -> tuple[list[Tensor], list[Tensor | None]]:
        """Indices and masks per stage; see `ResidualCodebooks.encode`."""
        with torch.no_grad():
            return self.codebooks.encode(self.latents(features), num_quantizers, shares)

    def forward(self, features: Tensor, dropout: float = 0.0) -> QuantizedLatents:
        """One differentiable pass.

        With probability `dropout` (training mode only) a random first part of the stages is used
        alone, so that every first part learns to decode.
        """
        latents = self.latents(features)
        stages = self.config.num_quantizers
        if self.training and stages > 1 and float(torch.rand(())) < dropout:
            stages = int(torch.randint(1, stages + 1, ()))
        indices, masks = self.codebooks.encode(latents, stages)
        chosen = self.codebooks.decode(indices, masks)
        return QuantizedLatents(
            latents_hat=latents + (chosen - latents).detach(),
            indices=indices,
            commitment=(latents - chosen.detach()).square().mean(),
            codebook=(chosen - latents.detach()).square().mean(),
            num_quantizers=stages,
        )
