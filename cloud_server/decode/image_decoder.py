"""Payloads to image embeddings: unpack, rebuild, vision suffix, projector."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from aligned_vq.answers import Timings
from aligned_vq.errors import AlignedVQError, EngineError
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Encoded, Payload
from cloud_server.model import CloudCut, CloudModel


class EngineImage(NamedTuple):
    """One decoded payload."""

    engine_input: Tensor
    """Image embeddings `[N', H]` in the model's dtype, from `ImageDecoder`; or codebook indices
    `[N, K]` int16, from `IndexReader`, for an engine that rebuilds images itself."""
    timings: Timings
    """Time of each stage; payloads that were decoded in one pass share it."""

    def __repr__(self) -> str:
        return f"EngineImage({tuple(self.engine_input.shape)}, {self.timings})"


class ImageDecoder:
    """Decodes payloads with a `CloudModel`; blocks, so call it off the event loop.

    Args:
        model: bundles, vision suffixes and projector.
    """

    def __init__(self, model: CloudModel) -> None:
        self._model = model

    @torch.inference_mode()
    def decode_many(self, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """Image embeddings, or a CorruptPayload, for each payload in order.

        Payloads of one bundle share a pass; an invalid one does not affect the others.
        """
        images: list[EngineImage | Exception] = [EngineError("not decoded")] * len(payloads)
        for digest in {payload.manifest_digest for payload in payloads}:
            positions = [
                index for index, payload in enumerate(payloads) if payload.manifest_digest == digest
            ]
            results = self._pass(self._model.cuts[digest], [payloads[index] for index in positions])
            for index, result in zip(positions, results, strict=True):
                images[index] = result
        return images

    def _pass(self, cut: CloudCut, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """The images of payloads of one bundle, in order."""
        model = self._model
        codec = cut.bundle.codec
        watch = Stopwatch()
        unpacked: list[Encoded | AlignedVQError] = []
        for payload in payloads:
            try:
                unpacked.append(codec.unpack(payload))
            except AlignedVQError as error:
                unpacked.append(error)
        watch.lap("unpack")
        valid = [item for item in unpacked if isinstance(item, Encoded)]
        rows: list[Tensor] = []
        if valid:
            with model.compute_lock:
                watch.lap("turn")  # the wait for the lock
                features, residual = codec.decode_many(valid)  # [B, N, D] each
                watch.lap("rebuild")
                # The codec computes in float32, the suffix in the dtype of the model.
                selected = cut.suffix(
                    features.to(model.device, model.dtype), residual.to(model.device, model.dtype)
                )
                watch.lap("suffix")
                # Copies: a view of the batch would keep all of it in memory for one cached image.
                embeds = model.llava.model.multi_modal_projector(selected)  # [B, N', H]
                rows = [row.clone() for row in embeds] if len(valid) > 1 else [embeds[0]]
                watch.lap("projector")
        remaining = iter(rows)
        return [
            EngineImage(next(remaining), watch.timings()) if isinstance(item, Encoded) else item
            for item in unpacked
        ]
