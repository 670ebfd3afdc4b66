"""From payloads to image embeddings: unpack, rebuild, rest of the vision tower, projector."""

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
    """Image embeddings `[N', H]` and the time of each stage; those of one pass share its stages."""

    embeds: Tensor
    timings: Timings

    def __repr__(self) -> str:
        return f"EngineImage({tuple(self.embeds.shape)}, {self.timings})"


class ImageDecoder:
    """Runs the decode path; blocking, so call it off the event loop."""

    def __init__(self, model: CloudModel) -> None:
        self._model = model

    @torch.inference_mode()
    def decode_many(self, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """Embeddings for the language model, one per payload.

        A payload that is not one of its bundle's has a CorruptPayload in its place, and the others
        are decoded all the same. Those of one bundle share a pass.
        """
        found: list[EngineImage | Exception] = [EngineError("not decoded")] * len(payloads)
        for digest in {payload.manifest_digest for payload in payloads}:
            places = [n for n, payload in enumerate(payloads) if payload.manifest_digest == digest]
            results = self._pass(self._model.cuts[digest], [payloads[n] for n in places])
            for place, result in zip(places, results, strict=True):
                found[place] = result
        return found

    def _pass(self, cut: CloudCut, payloads: Sequence[Payload]) -> list[EngineImage | Exception]:
        """The payloads of one bundle, in their order."""
        model = self._model
        codec = cut.bundle.codec
        watch = Stopwatch()
        checked: list[Encoded | AlignedVQError] = []
        for payload in payloads:
            try:
                checked.append(codec.unpack(payload))
            except AlignedVQError as error:
                checked.append(error)
        watch.lap("unpack")
        good = [own for own in checked if isinstance(own, Encoded)]
        rows: list[Tensor] = []
        if good:
            with model.turns:
                watch.lap("turn")
                features, residual = codec.decode_many(good)
                watch.lap("rebuild")
                selected = cut.suffix(
                    features.to(model.device, model.dtype), residual.to(model.device, model.dtype)
                )
                watch.lap("suffix")
                # A copy each: a view would keep the whole batch in memory for one cached image.
                embeds = model.llava.model.multi_modal_projector(selected)
                rows = [own.clone() for own in embeds] if len(good) > 1 else [embeds[0]]
                watch.lap("projector")
        found = iter(rows)
        return [
            EngineImage(next(found), watch.timings()) if isinstance(own, Encoded) else own
            for own in checked
        ]
