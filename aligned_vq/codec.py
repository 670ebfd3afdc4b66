"""FeatureCodec: features to Payload and back, for one manifest.

`EdgeCodec` holds what compressing needs, `CloudCodec` what decompressing needs; neither holds the
other's weights. `FeatureCodec` joins them where both are at hand (calibration, evaluation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from aligned_vq.bitstream import EntropyTables, pack, unpack
from aligned_vq.errors import ManifestMismatch
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.residual_link import ResidualLink, token_statistics
from aligned_vq.types import Coding, Encoded, FeatureSpec, Payload, QuantizerConfig, StageIndices


@dataclass(frozen=True)
class CodecSpec:
    """What both halves agree on, taken from the manifest."""

    digest: bytes
    features: FeatureSpec
    quantizer: QuantizerConfig
    statistics: bool
    layer_norm_eps: float
    tables: EntropyTables | None = None


class EdgeCodec:
    """Compresses: quantizer is None for the identity quantizer."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None) -> None:
        self.spec = spec
        self.quantizer = quantizer

    @torch.inference_mode()
    def encode(
        self,
        features: Tensor,
        residual: Tensor,
        num_quantizers: int | None = None,
        shares: Sequence[float] = (),
    ) -> Encoded:
        """One image's features and residual stream `[N, D]` as indices, or raw."""
        statistics = None
        if self.spec.statistics:
            pair = token_statistics(residual.float(), self.spec.layer_norm_eps).cpu().numpy()
            statistics = pair if self.quantizer is None else pair.astype(np.float16)
        if self.quantizer is None:
            raw = features.float().cpu().numpy()
            return Encoded(len(raw), statistics=statistics, features=raw)
        indices, masks = self.quantizer.encode(features[None], num_quantizers, shares)
        stages = []
        for own, mask in zip(indices, masks, strict=True):
            covered = None if mask is None else mask[0].cpu().numpy()
            rows = own[0].cpu().numpy().astype(np.int32)
            stages.append(StageIndices(rows if covered is None else rows[covered], covered))
        return Encoded(len(features), tuple(stages), statistics)

    def compress(
        self,
        features: Tensor,
        residual: Tensor,
        *,
        num_quantizers: int | None = None,
        shares: Sequence[float] = (),
        coding: Coding | None = None,
    ) -> Payload:
        """The payload of one image: features and residual stream are `[N, D]`.

        `coding` None takes the smaller of fixed-width and range coding.
        """
        encoded = self.encode(features, residual, num_quantizers, shares)
        spec = self.spec
        return pack(encoded, spec.quantizer, spec.tables, spec.digest, coding or "auto")


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
    def decode(self, encoded: Encoded) -> tuple[Tensor, Tensor]:
        """Features and residual stream, each `[N, D]` float32."""
        statistics = None
        if encoded.statistics is not None:
            statistics = torch.from_numpy(encoded.statistics.astype(np.float32))[None]
        if self.quantizer is None:
            assert encoded.features is not None  # unpack promises it for the identity quantizer
            features_hat = torch.from_numpy(encoded.features)[None]
            return features_hat[0], self.link(features_hat, None, statistics)[0]
        device = self.quantizer.project_up.weight.device
        indices, masks = [], []
        for stage in encoded.stages:
            rows = torch.zeros(1, encoded.num_tokens, stage.indices.shape[1], dtype=torch.int64)
            covered = None if stage.mask is None else torch.from_numpy(stage.mask)
            rows[0, slice(None) if covered is None else covered] = torch.from_numpy(
                stage.indices.astype(np.int64)
            )
            indices.append(rows.to(device))
            masks.append(None if covered is None else covered[None].to(device))
        latents_hat = self.quantizer.codebooks.decode(indices, masks)
        features_hat = self.quantizer.reconstruct(latents_hat)
        if statistics is not None:
            statistics = statistics.to(device)
        return features_hat[0], self.link(features_hat, latents_hat, statistics)[0]

    def decompress(self, payload: Payload) -> tuple[Tensor, Tensor]:
        """Features and residual stream `[N, D]` float32 of one payload; raises as `unpack`."""
        return self.decode(self.unpack(payload))


class FeatureCodec(EdgeCodec, CloudCodec):
    """Both halves in one process."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None, link: ResidualLink) -> None:
        CloudCodec.__init__(self, spec, quantizer, link)
