"""AlignedVQ: vector quantization behind a LayerNorm, between two linear projections.

    features - position mean -> project_down (D -> d) -> residual codebooks -> latents_hat
    latents_hat -> refiner (if any) -> project_up (d -> D) + position mean -> features_hat

After "Aligned Vector Quantization for Edge-Cloud Collaborative Vision-Language Models"
(arXiv 2411.05961), which places the codebooks behind the LayerNorm and between two linear
projections. The position mean, the refiner and the projection to the residual stream
(`LearnedLink`) are additions of this project.
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
    """The quantizer's output in a training step."""

    latents_hat: Tensor
    """`[B, N, d]`; carries gradients to the latents and to the chosen entries."""
    latents: Tensor
    """`[B, N, d]`, before quantization."""
    choices: list[StageChoice]
    """Indices, mask and input of each stage."""
    commitment: Tensor
    """Mean squared distance between latents and entries, with gradients to the latents only."""
    codebook: Tensor
    """The same distance, with gradients to the entries only."""
    rate_bits: Tensor
    """`[B]`: estimated bits of each image's indices and masks."""


class AlignedVQ(nn.Module):
    """The quantizer of one cut in float32: position mean, projections, codebooks, refiner."""

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
        # Autocast would round the latents to half precision, and other entries would be nearest.
        with torch.autocast(features.device.type, enabled=False):
            out: Tensor = self.project_down(features.float() - self.position_mean)
            return out

    def refine(self, latents_hat: Tensor) -> Tensor:
        """Decoded latents `[B, N, d]`, corrected by the refiner if the codec has one."""
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
        """Differentiable quantization of features `[B, N, D]`.

        Args:
            features: LayerNorm output at the cut.
            stages: the stages in use; None: all.
            rate_weight: as in `ResidualCodebooks.encode`.
            estimator: how the gradient of `latents_hat` reaches the latents.
            entries_learn: whether the gradient of `latents_hat` also reaches the chosen entries.
        """
        latents = self.latents(features)
        choices = self.codebooks.encode(latents, stages, rate_weight)
        chosen = self.codebooks.decode([c.indices for c in choices], [c.mask for c in choices])
        detached = chosen.detach()
        # The value of latents_hat is that of `chosen` in every case; only its gradients differ.
        if estimator == "rotation":
            latents_hat = _rotate_to(latents, detached)
        else:
            # Straight-through: the gradient is copied to the latents (VQ-VAE, arXiv 1711.00937).
            latents_hat = latents + (detached - latents).detach()
        if entries_learn:
            latents_hat = latents_hat + (chosen - detached)  # zero in value
        return QuantizedLatents(
            latents_hat=latents_hat,
            latents=latents,
            choices=choices,
            # The third and second term of the loss in VQ-VAE (arXiv 1711.00937, equation 3).
            commitment=(latents - detached).square().mean(),
            codebook=(chosen - latents.detach()).square().mean(),
            rate_bits=self.codebooks.rate_bits(choices),
        )


def _rotate_to(latents: Tensor, chosen: Tensor) -> Tensor:
    """`chosen` as a constant rotation and scaling of the latents (arXiv 2410.06424).

    The gradient to the latents is therefore rotated and scaled too, instead of copied.
    """
    latent_norm = latents.norm(dim=-1, keepdim=True).clamp(min=1e-6)  # zero has no direction
    chosen_norm = chosen.norm(dim=-1, keepdim=True)
    start = (latents / latent_norm).detach()
    end = chosen / chosen_norm.clamp(min=1e-6)
    # The rotation in the plane of both vectors, as two Householder reflections without matrices.
    middle = torch.nn.functional.normalize(start + end, dim=-1)
    # R = I - 2 m m^T + 2 e s^T, with the unit vectors s (start), e (end) and m (middle).
    along = (latents * middle).sum(-1, keepdim=True) * middle
    across = (latents * start).sum(-1, keepdim=True) * end
    rotated = (latents - 2 * along + 2 * across) * (chosen_norm / latent_norm).detach()
    # Rounding and opposite vectors leave a difference: corrected in value, not in gradient.
    out: Tensor = rotated + (chosen - rotated).detach()
    return out
