"""AlignedVQ: vector quantization behind a LayerNorm, between two linear projections.

    features - position mean -> project_down (D -> d) -> residual codebooks -> latents_hat
    latents_hat -> refiner (if any) -> project_up (d -> D) + position mean -> features_hat

After "Aligned Vector Quantization for Edge-Cloud Collaborative Vision-Language Models"
(arXiv 2411.05961): codebooks behind the normalisation, a dual linear projection around them. The
position mean, the refiner and the second projection for the residual stream (`LearnedLink`) are
ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from aligned_vq.quantizer.refiner import Refiner
from aligned_vq.quantizer.residual import ResidualCodebooks, StageChoice
from aligned_vq.types import FeatureSpec, QuantizerConfig

GradientEstimator = Literal["straight_through", "rotation"]


class QuantizedLatents(NamedTuple):
    """What a training step sees of the quantizer."""

    latents_hat: Tensor
    """`[B, N, d]`; carries gradients to the latents and to the chosen entries."""
    latents: Tensor
    """`[B, N, d]`: what was to be quantized."""
    choices: list[StageChoice]
    """Per stage: indices, masks and what was quantized."""
    commitment: Tensor
    """Mean squared distance of the latents to their entries, entries held fixed."""
    codebook: Tensor
    """The same distance with the latents held fixed: moves the entries."""
    rate_bits: Tensor
    """`[B]`: estimated bits of each image."""


class AlignedVQ(nn.Module):
    """Projections, position mean and codebooks of one cut; float32."""

    def __init__(self, features: FeatureSpec, config: QuantizerConfig) -> None:
        super().__init__()
        self.config = config
        self.position_mean = nn.Parameter(torch.zeros(features.num_tokens, features.dim))
        self.project_down = nn.Linear(features.dim, config.codebook_dim, bias=False)
        self.codebooks = ResidualCodebooks(config)
        self.refiner = Refiner(features.num_tokens, config) if config.refiner_blocks else None
        self.project_up = nn.Linear(config.codebook_dim, features.dim, bias=False)

    def latents(self, features: Tensor) -> Tensor:
        """Latents `[B, N, d]` float32 of features `[B, N, D]`."""
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.project_down(features.float() - self.position_mean)
            return out

    def refine(self, latents_hat: Tensor) -> Tensor:
        """Decoded latents `[B, N, d]`, corrected by the refiner where there is one."""
        if self.refiner is None:
            return latents_hat
        out: Tensor = self.refiner(latents_hat)
        return out

    def reconstruct(self, latents_hat: Tensor) -> Tensor:
        """Features `[B, N, D]` of refined latents `[B, N, d]`."""
        out: Tensor = self.project_up(latents_hat) + self.position_mean
        return out

    def encode(
        self,
        features: Tensor,
        stages: Sequence[int] | None = None,
        rate_weight: float | Tensor = 0.0,
    ) -> list[StageChoice]:
        """Indices and masks per stage; see `ResidualCodebooks.encode`."""
        with torch.no_grad():
            return self.codebooks.encode(self.latents(features), stages, rate_weight)

    def forward(
        self,
        features: Tensor,
        stages: Sequence[int] | None = None,
        rate_weight: float | Tensor = 0.0,
        estimator: GradientEstimator = "straight_through",
        entries_learn: bool = True,
    ) -> QuantizedLatents:
        """One differentiable pass over some stages (default: all).

        `entries_learn` lets the gradient of what follows reach the chosen entries as it is; the
        latents get it by the straight-through or the rotation estimator.
        """
        latents = self.latents(features)
        choices = self.codebooks.encode(latents, stages, rate_weight)
        chosen = self.codebooks.decode([c.indices for c in choices], [c.mask for c in choices])
        held = chosen.detach()
        if estimator == "rotation":
            through = _rotated(latents, held)
        else:
            through = latents + (held - latents).detach()
        if entries_learn:
            through = through + (chosen - held)
        return QuantizedLatents(
            latents_hat=through,
            latents=latents,
            choices=choices,
            commitment=(latents - held).square().mean(),
            codebook=(chosen - latents.detach()).square().mean(),
            rate_bits=self.codebooks.rate_bits(choices),
        )


def _rotated(latents: Tensor, chosen: Tensor) -> Tensor:
    """`chosen`, written as a fixed rotation and scaling of the latents (arXiv 2410.06424), so that
    gradients turn with them."""
    norm = latents.norm(dim=-1, keepdim=True).clamp(min=1e-6)
    goal = chosen.norm(dim=-1, keepdim=True)
    start = (latents / norm).detach()
    end = chosen / goal.clamp(min=1e-6)
    middle = torch.nn.functional.normalize(start + end, dim=-1)
    along = (latents * middle).sum(-1, keepdim=True) * middle
    across = (latents * start).sum(-1, keepdim=True) * end
    turned = (latents - 2 * along + 2 * across) * (goal / norm).detach()
    # What rounding and opposite vectors leave over, without a gradient.
    out: Tensor = turned + (chosen - turned).detach()
    return out
