"""FeatureCodec: features to Payload and back, for one manifest.

`EdgeCodec` compresses and `CloudCodec` decompresses; neither holds the other's weights.
`FeatureCodec` is both in one process, for calibration and evaluation.
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
    """The compressing half; `quantizer` is None for the identity quantizer."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None) -> None:
        self.spec = spec
        self.quantizer = quantizer

    @torch.inference_mode()
    def encode(
        self, features: Tensor, residual: Tensor, point: OperatingPoint | None = None
    ) -> Encoded:
        """The indices (or raw features) of one image's features and residual stream `[N, D]`.

        `point` None is the default operating point. Its byte limit applies in `compress` only.
        """
        statistics = None
        if self.spec.statistics:
            pair = token_statistics(residual.float(), self.spec.layer_norm_eps).cpu().numpy()
            # float16 halves the bytes; raw features are float32, so that saving would not matter.
            statistics = pair if self.quantizer is None else pair.astype(np.float16)
        if self.quantizer is None:
            raw = features.float().cpu().numpy()
            return Encoded(len(raw), statistics=statistics, features=raw)
        point = point or self.spec.point()
        stages = []
        # The batch has one image: [1, N, D], and choices [1, N, G].
        for choice in self.quantizer.encode(features[None], point.stages, point.rate_weight):
            mask = None if choice.mask is None else choice.mask[0].cpu().numpy()
            indices = choice.indices[0].cpu().numpy().astype(np.int32)
            stages.append(StageIndices(indices if mask is None else indices[mask], mask))
        return Encoded(len(features), tuple(stages), statistics)

    def compress(
        self,
        features: Tensor,
        residual: Tensor,
        *,
        point: OperatingPoint | str | None = None,
        coding: Coding | None = None,
    ) -> Payload:
        """The payload of one image's features and residual stream, `[N, D]` each.

        `point`, `coding` and errors are those of `CodecSpec.compress`.
        """
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
    """The decompressing half: every accepted payload gives finite tensors of the same shape."""

    def __init__(self, spec: CodecSpec, quantizer: AlignedVQ | None, link: ResidualLink) -> None:
        self.spec = spec
        self.quantizer = quantizer
        self.link = link

    def unpack(self, payload: Payload) -> Encoded:
        """The payload's indices, verified.

        Raises:
            ManifestMismatch: the payload was made with another manifest.
            CorruptPayload: the bytes are not a payload of this manifest.
        """
        spec = self.spec
        # First of all: indices of another codebook could be decoded without an error.
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
        # The `is not None` filters drop nothing: `unpack` guarantees statistics if the link needs
        # them, and features for the identity quantizer.
        statistics = None
        if self.spec.statistics:
            pairs = [image.statistics for image in images if image.statistics is not None]
            statistics = torch.from_numpy(np.stack(pairs).astype(np.float32))
        if self.quantizer is None:
            raw = [image.features for image in images if image.features is not None]
            features_hat = torch.from_numpy(np.stack(raw))
            return features_hat, self.link(features_hat, None, statistics)
        indices, masks = [], []
        # Images of different operating points differ in their number of stages.
        for stage in range(max(len(image.stages) for image in images)):
            stage_indices, mask = _stack_stage(images, stage, self.quantizer.config.num_groups)
            indices.append(stage_indices)
            masks.append(mask)
        return self.rebuild(indices, masks, statistics)

    @torch.inference_mode()
    def rebuild(
        self,
        indices: Sequence[Tensor],
        masks: Sequence[Tensor | None],
        statistics: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and residual streams, each `[B, N, D]` float32, from the indices of stages.

        Args:
            indices: per stage, int64 `[B, N, G]`.
            masks: per stage, the covered tokens `[B, N]`; None: all.
            statistics: float32 `[B, N, 2]` if the link needs them.

        Raises:
            ConfigError: the codec has the identity quantizer, which has no indices.
        """
        quantizer = self.quantizer
        if quantizer is None:
            raise ConfigError("expected a codec with codebooks, got the identity quantizer")
        # `project_up` is held by the cloud; the edge side's weights stay on the meta device.
        device = quantizer.project_up.weight.device
        latents_hat = quantizer.codebooks.decode(
            [stage_indices.to(device) for stage_indices in indices],
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


def _stack_stage(
    images: Sequence[Encoded], number: int, groups: int
) -> tuple[Tensor, Tensor | None]:
    """One stage's indices `[B, N, G]` of all images and its mask `[B, N]`; None: all covered.

    Indices of tokens that are not covered are 0. An image without this stage has no covered token.
    """
    indices = np.zeros((len(images), images[0].num_tokens, groups), np.int64)
    masks = np.zeros(indices.shape[:2], np.bool_)
    # Iteration yields views, so writing to them fills the arrays.
    for image, image_indices, mask in zip(images, indices, masks, strict=True):
        if number < len(image.stages):
            stage = image.stages[number]
            mask[:] = True if stage.mask is None else stage.mask
            image_indices[mask] = stage.indices
    all_covered = bool(masks.all())
    # With None, `decode` skips the product with the mask.
    return torch.from_numpy(indices), None if all_covered else torch.from_numpy(masks)
