"""From a payload to image embeddings: unpack, rebuild, rest of the vision tower, projector."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Payload, Timings
from cloud_server.model import CloudModel


class DecodedImage(NamedTuple):
    """Image embeddings `[N', H]` and the time of each stage."""

    embeds: Tensor
    timings: Timings


class ImageDecoder:
    """Runs the decode path; blocking, so call it off the event loop."""

    def __init__(self, model: CloudModel) -> None:
        self._model = model

    @torch.inference_mode()
    def decode(self, payload: Payload) -> DecodedImage:
        """Embeddings for the language model.

        Raises:
            ManifestMismatch: the payload names another manifest.
            CorruptPayload: the bytes are not a payload of this manifest.
        """
        model = self._model
        watch = Stopwatch()
        encoded = model.bundle.codec.unpack(payload)
        watch.lap("unpack")
        features, residual = model.bundle.codec.decode(encoded)
        watch.lap("rebuild")
        selected = model.suffix(
            features[None].to(model.device, model.dtype),
            residual[None].to(model.device, model.dtype),
        )
        watch.lap("suffix")
        embeds: Tensor = model.llava.model.multi_modal_projector(selected)[0]
        watch.lap("projector")
        return DecodedImage(embeds, watch.timings())
