"""FeatureCodec: features to Payload and back, for one manifest.

`EdgeCodec` holds what compressing needs, `CloudCodec` what decompressing needs; neither holds the
other's weights. `FeatureCodec` joins them where both are at hand (calibration, evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from aligned_vq.bitstream import unpack
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError, ManifestMismatch
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.residual_link import ResidualLink, token_statistics
from aligned_vq.types import Coding, Encoded, OperatingPoint, Payload, StageIndices


class EdgeCodec:
    """Compresses: quantizer is None for the identity quantizer."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None) -> None:
        self.spec = spec
        self.quantizer = quantizer

    @torch.inference_mode()
    def encode(
        self, features: Tensor, residual: Tensor, point: OperatingPoint | None = None
    ) -> Encoded:
        """One image's features and residual stream `[N, D]` as indices, or raw.

        `point` None takes the default one. Its byte limit is enforced by `compress`.
        """
        statistics = None
        if self.spec.statistics:
            pair = token_statistics(residual.float(), self.spec.layer_norm_eps).cpu().numpy()
            statistics = pair if self.quantizer is None else pair.astype(np.float16)
        if self.quantizer is None:
            raw = features.float().cpu().numpy()
            return Encoded(len(raw), statistics=statistics, features=raw)
        point = point or self.spec.point()
        stages = []
        for choice in self.quantizer.encode(features[None], point.stages, point.rate_weight):
            covered = None if choice.mask is None else choice.mask[0].cpu().numpy()
            rows = choice.indices[0].cpu().numpy().astype(np.int32)
            stages.append(StageIndices(rows if covered is None else rows[covered], covered))
        return Encoded(len(features), tuple(stages), statistics)

    def compress(
        self,
        features: Tensor,
        residual: Tensor,
        *,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """The payload of one image's features and residual stream, `[N, D]` each; what else is
        given and raised is that of `CodecSpec.compress`."""
        return self.spec.compress(TorchPrefixOutput(self, features, residual), point, coding)


class TorchPrefixOutput(NamedTuple):
    """One image's features and residual stream, `[N, D]` each; see `PrefixOutput`."""

    codec: EdgeCodec
    features: Tensor
    residual: Tensor

    def encode(self, point: OperatingPoint | None) -> Encoded:
        """See `PrefixOutput`."""
        return self.codec.encode(self.features, self.residual, point)


class CloudCodec:
    """Decompresses: every accepted payload gives finite tensors of the one right shape."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None, link: ResidualLink) -> None:
        self.spec = spec
        self.quantizer = quantizer
        self.link = link

    def unpack(self, payload: Payload) -> Encoded:
        """The payload's indices, checked.

        Raises:
            ManifestMismatch: the payload names another manifest.
            CorruptPayload: the bytes are not a payload of this manifest.
        """
        spec = self.spec
        if payload.manifest_digest != spec.digest:
            raise ManifestMismatch(
                f"expected a payload of manifest {spec.digest.hex()}, got one of "
                f"{payload.manifest_digest.hex()}; install the same bundle on edge and cloud"
            )
        return unpack(
            payload, spec.quantizer, spec.features.num_tokens, spec.statistics, spec.tables
        )

    @torch.inference_mode()
    def decode_many(self, images: Sequence[Encoded]) -> tuple[Tensor, Tensor]:
        """Features and residual streams of one or more images, each `[B, N, D]` float32."""
        # `unpack` promises statistics for the link that needs them, and raw features for the
        # identity quantizer.
        statistics = None
        if self.spec.statistics:
            pairs = [own.statistics for own in images if own.statistics is not None]
            statistics = torch.from_numpy(np.stack(pairs).astype(np.float32))
        if self.quantizer is None:
            raw = [own.features for own in images if own.features is not None]
            features_hat = torch.from_numpy(np.stack(raw))
            return features_hat, self.link(features_hat, None, statistics)
        indices, masks = [], []
        for number in range(max(len(own.stages) for own in images)):
            rows, covered = _stacked(images, number, self.quantizer.config.num_groups)
            indices.append(rows)
            masks.append(covered)
        return self.rebuild(indices, masks, statistics)

    @torch.inference_mode()
    def rebuild(
        self,
        indices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        statistics: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and residual streams, each `[B, N, D]` float32, of what the first stages say:
        indices `[B, N, G]` int64 and a mask `[B, N]` of the tokens covered (None: all) for each.

        Raises:
            ConfigError: the identity quantizer has no indices.
        """
        quantizer = self.quantizer
        if quantizer is None:
            raise ConfigError("expected a codec with codebooks, got the identity quantizer")
        device = quantizer.project_up.weight.device
        latents_hat = quantizer.codebooks.decode(
            [own.to(device) for own in indices],
            [None if mask is None else mask.to(device) for mask in masks],
        )
        latents_hat = quantizer.refine(latents_hat)
        features_hat = quantizer.reconstruct(latents_hat)
        if statistics is not None:
            statistics = statistics.to(device)
        return features_hat, self.link(features_hat, latents_hat, statistics)

    def decode(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Features and residual stream of one image, each `[N, D]` float32."""
        features, residual = self.decode_many([encoded])
        return features[0], residual[0]

    def decompress(self, payload: Payload) -> tuple[Tensor, Tensor]:
        """Features and residual stream `[N, D]` float32 of one payload; raises as `unpack`."""
        return self.decode(self.unpack(payload))


class FeatureCodec(EdgeCodec, CloudCodec):
    """Both halves in one process."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None, link: ResidualLink) -> None:
        CloudCodec.__init__(self, spec, quantizer, link)


def _stacked(images: Sequence[Encoded], number: int, groups: int) -> tuple[Tensor, Tensor | None]:
    """A stage's indices `[B, N, G]` over all images, and the tokens it covers `[B, N]`, None: all.
    An image without that stage is covered nowhere."""
    indices = np.zeros((len(images), images[0].num_tokens, groups), np.int64)
    covered = np.zeros(indices.shape[:2], np.bool_)
    for image, own, mask in zip(images, indices, covered, strict=True):
        if number < len(image.stages):
            stage = image.stages[number]
            mask[:] = True if stage.mask is None else stage.mask
            own[mask] = stage.indices
    everywhere = bool(covered.all())
    return torch.from_numpy(indices), None if everywhere else torch.from_numpy(covered)
