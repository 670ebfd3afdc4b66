"""Residual links: they rebuild the residual stream in the cloud.

`VisionSuffix` needs the residual stream in addition to the LayerNorm features, but only the
features are encoded. A link estimates it from the decoded payload:
`residual_hat = link(features_hat, latents_hat, statistics)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from aligned_vq.errors import ConfigError
from aligned_vq.types import FeatureSpec, LinkKind, SplitPoint


class ResidualLink(nn.Module, ABC):
    """Base class of the residual links."""

    needs_statistics = False

    @abstractmethod
    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The residual stream `[B, N, D]`.

        Args:
            features_hat: decoded features `[B, N, D]`.
            latents_hat: decoded latents `[B, N, d]`; None for the identity quantizer.
            statistics: `[B, N, 2]` if `needs_statistics`, else unused.
        """


class IdentityLink(ResidualLink):
    """For the cut `pre`, where the LayerNorm output is the residual stream."""

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The features themselves."""
        return features_hat


class DroppedLink(ResidualLink):
    """The naive cut without a residual stream: a baseline for benchmarks."""

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """Zeros."""
        return torch.zeros_like(features_hat)


class LearnedLink(ResidualLink):
    """A linear projection of the latents plus a mean per position; needs no extra bytes."""

    def __init__(self, features: FeatureSpec, codebook_dim: int) -> None:
        super().__init__()
        self.project = nn.Linear(codebook_dim, features.dim, bias=False)
        self.position_mean = nn.Parameter(torch.zeros(features.num_tokens, features.dim))

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """Projected latents plus the position mean."""
        if latents_hat is None:
            raise ConfigError("the learned link needs latents: use it with the aligned quantizer")
        projected: Tensor = self.project(latents_hat)
        return projected + self.position_mean  # [B, N, D] + [N, D]


class StatisticsLink(ResidualLink):
    """Inverts the cut LayerNorm with each token's mean and standard deviation, 4 B per token."""

    needs_statistics = True

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if bool((weight == 0).any()):
            raise ConfigError(
                "expected a cut LayerNorm without zero gains, which cannot be inverted; "
                "use another cut or the learned link"
            )
        # Buffers are saved with the link but not trained.
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """`(features - bias) / weight * deviation + mean`."""
        if statistics is None:
            raise ConfigError("the statistics link needs the payload's statistics")
        mean, deviation = statistics[..., :1], statistics[..., 1:]  # [B, N, 1] each
        normalised = (features_hat - self.get_buffer("bias")) / self.get_buffer("weight")
        return normalised * deviation + mean


class ClosedFormLink(ResidualLink):
    """For the cut ln1@0, whose residual stream follows from the features alone.

    The input x of LN1 is the output of `pre_layrnorm`: before that norm's gain and bias, each token
    has mean 0 and variance 1. With `z = (LN1(x) - bias) / gain` and `x = s z + m`, the mean gives m
    as a linear function of s, and the variance gives s as the positive root of a quadratic.
    """

    def __init__(
        self, pre_weight: Tensor, pre_bias: Tensor, cut_weight: Tensor, cut_bias: Tensor
    ) -> None:
        super().__init__()
        if bool((pre_weight == 0).any() or (cut_weight == 0).any()):
            raise ConfigError(
                "expected LayerNorms without zero gains up to the cut, which cannot be inverted; "
                "use the learned link"
            )
        self.register_buffer("pre_weight", pre_weight)
        self.register_buffer("pre_bias", pre_bias)
        self.register_buffer("cut_weight", cut_weight)
        self.register_buffer("cut_bias", cut_bias)

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The residual stream whose LN1 is `features_hat`, up to LayerNorm's epsilon."""
        # In float64: the quadratic below subtracts numbers of similar size.
        inverse = 1 / self.get_buffer("pre_weight").double()
        offset = self.get_buffer("pre_bias").double() * inverse
        z = (features_hat.double() - self.get_buffer("cut_bias")) / self.get_buffer("cut_weight")
        # u = (x - pre_bias) / pre_weight has mean 0 and variance 1. Substituting m from the first
        # condition gives u = s * p + q, and the second is a * s^2 + b * s + c = 0.
        scaled = z * inverse
        p = scaled - scaled.mean(-1, keepdim=True) / inverse.mean() * inverse
        q = offset.mean() / inverse.mean() * inverse - offset
        a, b, c = (p * p).mean(-1), 2 * (p * q).mean(-1), (q * q).mean() - 1
        # Decoded features need not satisfy both conditions: b * b - 4 * a * c may be negative.
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        s = ((root - b) / (2 * a.clamp(min=1e-12)))[..., None]  # a is 0 where p is 0
        m = (offset.mean() - s * scaled.mean(-1, keepdim=True)) / inverse.mean()
        return (s * z + m).to(features_hat.dtype)


def check_link(kind: LinkKind, split: SplitPoint, identity_quantizer: bool) -> None:
    """Raise ConfigError unless the link supports this cut and quantizer."""
    if kind == "identity" and split.norm != "pre":
        raise ConfigError(f"the identity link supports only the cut 'pre', got {split}")
    if kind == "closed_form" and (split.norm, split.block) != ("ln1", 0):
        raise ConfigError(f"the closed_form link supports only the cut ln1@0, got {split}")
    if kind == "statistics" and split.norm == "pre":
        raise ConfigError(
            "the statistics link inverts ln1 or ln2; at the cut 'pre' the features already are the "
            "residual stream: use 'identity'"
        )
    if kind == "learned" and identity_quantizer:
        raise ConfigError("the identity quantizer has no latents: use the link 'statistics'")


def build_link(
    kind: LinkKind,
    split: SplitPoint,
    features: FeatureSpec,
    codebook_dim: int | None,
    norms: dict[str, Tensor],
) -> ResidualLink:
    """A new link.

    Args:
        kind: of the link.
        split: the cut.
        features: shape of the features.
        codebook_dim: latent width d; None for the identity quantizer.
        norms: the tower's LayerNorm tensors of `link_norm_names`, by name.

    Raises:
        ConfigError: the link does not support this cut, quantizer or checkpoint.
    """
    check_link(kind, split, identity_quantizer=codebook_dim is None)
    # The checkpoint may store half precision; links compute in float32.
    tensors = {name: tensor.float() for name, tensor in norms.items()}
    match kind:
        case "identity":
            return IdentityLink()
        case "dropped":
            return DroppedLink()
        case "learned":
            # `check_link` rejects the identity quantizer, the only one without a width.
            assert codebook_dim is not None
            return LearnedLink(features, codebook_dim)
        case "statistics":
            cut = cut_norm_name(split)
            return StatisticsLink(tensors[f"{cut}.weight"], tensors[f"{cut}.bias"])
        case "closed_form":
            names = (*_affine("pre_layrnorm"), *_affine(cut_norm_name(split)))
            return ClosedFormLink(*(tensors[name] for name in names))


def cut_norm_name(split: SplitPoint) -> str:
    """The cut LayerNorm's name in the tower."""
    if split.norm == "pre":
        return "pre_layrnorm"
    return f"encoder.layers.{split.block}.layer_norm{split.norm[-1]}"


def link_norm_names(split: SplitPoint) -> list[str]:
    """Names of the tower's LayerNorm tensors that a link may need."""
    # A set: at the cut `pre` both norms are the same.
    names = {*_affine("pre_layrnorm"), *_affine(cut_norm_name(split))}
    return sorted(names)


def token_statistics(residual: Tensor, eps: float) -> Tensor:
    """Each token's mean and `sqrt(variance + eps)`, `[B, N, 2]`, as LayerNorm computes them."""
    mean = residual.mean(-1)
    # Biased, because LayerNorm divides by D.
    deviation = (residual.var(-1, unbiased=False) + eps).sqrt()
    return torch.stack([mean, deviation], dim=-1)


def _affine(norm: str) -> tuple[str, str]:
    return f"{norm}.weight", f"{norm}.bias"
