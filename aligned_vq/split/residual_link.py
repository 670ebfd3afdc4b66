"""Where the residual stream behind the cut comes from.

`VisionSuffix` needs the residual stream `x` beside the LayerNorm features. A link rebuilds it in
the cloud from what crossed the wire: `residual_hat = link(features_hat, latents_hat, statistics)`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn

from aligned_vq.errors import ConfigError
from aligned_vq.types import FeatureSpec, LinkKind, SplitPoint


class ResidualLink(nn.Module, ABC):
    """One way to rebuild the residual stream; subclasses say how."""

    needs_statistics = False

    @abstractmethod
    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The residual stream `[B, N, D]`.

        `features_hat` is `[B, N, D]`, `latents_hat` `[B, N, d]` (None for the identity quantizer),
        `statistics` `[B, N, 2]` only for the link that needs them.
        """


class IdentityLink(ResidualLink):
    """For norm `pre`: the LayerNorm output is the residual stream."""

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The features themselves."""
        return features_hat


class DroppedLink(ResidualLink):
    """The naive cut: no residual at all. Kept so that a benchmark can show what it costs."""

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """Zeros."""
        return torch.zeros_like(features_hat)


class LearnedLink(ResidualLink):
    """A second output projection of the same latents, plus a mean per position: no extra bytes."""

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
        return projected + self.position_mean


class StatisticsLink(ResidualLink):
    """Inverts the cut LayerNorm with each token's mean and standard deviation: 4 B per token."""

    needs_statistics = True

    def __init__(self, weight: Tensor, bias: Tensor) -> None:
        super().__init__()
        if bool((weight == 0).any()):
            raise ConfigError("the cut LayerNorm has a zero gain and cannot be inverted")
        self.register_buffer("weight", weight)
        self.register_buffer("bias", bias)

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """`(features - bias) / weight * deviation + mean`."""
        if statistics is None:
            raise ConfigError("the statistics link needs the payload's statistics")
        mean, deviation = statistics[..., :1], statistics[..., 1:]
        normal = (features_hat - self.get_buffer("bias")) / self.get_buffer("weight")
        return normal * deviation + mean


class ClosedFormLink(ResidualLink):
    """LN1 of block 0: its input left `pre_layrnorm` with zero mean and unit variance per token
    before that norm's affine. With `z = (LN1(x) - b1) / g1` and `x = s z + m`, the two conditions
    give m (linear) and s (positive root of a quadratic), so x follows from the features alone.
    """

    def __init__(
        self, pre_weight: Tensor, pre_bias: Tensor, cut_weight: Tensor, cut_bias: Tensor
    ) -> None:
        super().__init__()
        if bool((pre_weight == 0).any() or (cut_weight == 0).any()):
            raise ConfigError("a LayerNorm before the cut has a zero gain and cannot be inverted")
        self.register_buffer("pre_weight", pre_weight)
        self.register_buffer("pre_bias", pre_bias)
        self.register_buffer("cut_weight", cut_weight)
        self.register_buffer("cut_bias", cut_bias)

    def forward(
        self, features_hat: Tensor, latents_hat: Tensor | None, statistics: Tensor | None
    ) -> Tensor:
        """The one stream whose LN1 is `features_hat`, up to LayerNorm's epsilon."""
        inverse = 1 / self.get_buffer("pre_weight").double()
        offset = self.get_buffer("pre_bias").double() * inverse
        z = (features_hat.double() - self.get_buffer("cut_bias")) / self.get_buffer("cut_weight")
        # With u = (x - pre_bias) / pre_weight = s * p + q, where m was put in from mean(u) = 0:
        scaled = z * inverse
        p = scaled - scaled.mean(-1, keepdim=True) / inverse.mean() * inverse
        q = offset.mean() / inverse.mean() * inverse - offset
        a, b, c = (p * p).mean(-1), 2 * (p * q).mean(-1), (q * q).mean() - 1
        root = (b * b - 4 * a * c).clamp(min=0).sqrt()
        s = ((root - b) / (2 * a.clamp(min=1e-12)))[..., None]
        m = (offset.mean() - s * scaled.mean(-1, keepdim=True)) / inverse.mean()
        return (s * z + m).to(features_hat.dtype)


def check_link(kind: LinkKind, split: SplitPoint, identity_quantizer: bool) -> None:
    """ConfigError unless the link can serve this cut and quantizer."""
    if kind == "identity" and split.norm != "pre":
        raise ConfigError(f"the identity link serves only the cut 'pre', got {split}")
    if kind == "closed_form" and (split.norm, split.block) != ("ln1", 0):
        raise ConfigError(f"the closed_form link serves only the cut ln1@0, got {split}")
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
    """A link of some kind; `codebook_dim` is None for the identity quantizer.

    `norms` holds the tower's LayerNorm tensors before and at the cut, by their name in the tower
    (`link_norm_names`).
    """
    check_link(kind, split, identity_quantizer=codebook_dim is None)
    own = {name: tensor.float() for name, tensor in norms.items()}
    match kind:
        case "identity":
            return IdentityLink()
        case "dropped":
            return DroppedLink()
        case "learned":
            assert codebook_dim is not None
            return LearnedLink(features, codebook_dim)
        case "statistics":
            cut = cut_norm_name(split)
            return StatisticsLink(own[f"{cut}.weight"], own[f"{cut}.bias"])
        case "closed_form":
            names = (*_affine("pre_layrnorm"), *_affine(cut_norm_name(split)))
            return ClosedFormLink(*(own[name] for name in names))


def cut_norm_name(split: SplitPoint) -> str:
    """Name of the cut LayerNorm inside the tower."""
    if split.norm == "pre":
        return "pre_layrnorm"
    return f"encoder.layers.{split.block}.layer_norm{split.norm[-1]}"


def link_norm_names(split: SplitPoint) -> list[str]:
    """The tower's tensors a link may need."""
    names = {*_affine("pre_layrnorm"), *_affine(cut_norm_name(split))}
    return sorted(names)


def token_statistics(residual: Tensor, eps: float) -> Tensor:
    """Each token's mean and `sqrt(variance + eps)`, `[B, N, 2]`, as LayerNorm computes them."""
    mean = residual.mean(-1)
    deviation = (residual.var(-1, unbiased=False) + eps).sqrt()
    return torch.stack([mean, deviation], dim=-1)


def _affine(norm: str) -> tuple[str, str]:
    return f"{norm}.weight", f"{norm}.bias"
