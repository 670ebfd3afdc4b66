"""Image embeddings for the language model, computed in this process: with the codec or without."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.images.preprocess import preprocess
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.types import digest_of
from cloud_server.decode.image_decoder import EngineImage, ImageDecoder
from cloud_server.model import CloudModel, load_llava
from edge_client.encoder import EdgeEncoder


class TowerOutput(NamedTuple):
    """An image as the language model receives it."""

    embeds: Tensor
    """Embeddings `[N', H]`."""
    key: bytes
    """Identifies the image: questions about it share the keys and values of its embeddings."""
    payload_bytes: int | None
    """Size of the payload body; None without a codec."""


class Tower(Protocol):
    """The language model, and all that comes before it."""

    @property
    def llava(self) -> Any:
        """transformers' `LlavaForConditionalGeneration`."""

    @property
    def processor(self) -> Any:
        """transformers' `LlavaProcessor`."""

    def embed(self, images: Sequence[Image.Image]) -> list[TowerOutput]:
        """Embeddings of RGB images, in their order."""
        ...


class SplitTower:
    """The edge's encoder and the cloud's decoder, with a payload between them.

    Args:
        model: the cloud half.
        encoder: the edge half of the same bundle.
        point: operating point of the bundle; None: its default.
    """

    def __init__(self, model: CloudModel, encoder: EdgeEncoder, point: str | None) -> None:
        self.llava, self.processor = model.llava, model.processor
        self._encoder = encoder
        self._point = point
        self._decoder = ImageDecoder(model)

    def embed(self, images: Sequence[Image.Image]) -> list[TowerOutput]:
        """See `Tower.embed`. The cloud half receives nothing but the payloads."""
        payloads = [self._encoder.encode(image, quality=self._point).payload for image in images]
        outputs = []
        for payload, decoded in zip(payloads, self._decoder.decode_many(payloads), strict=True):
            if not isinstance(decoded, EngineImage):
                raise decoded  # the decoder returns an error for each payload that it refuses
            outputs.append(TowerOutput(decoded.engine_input, payload.digest(), len(payload.body)))
        return outputs


class UnsplitTower:
    """The checkpoint's vision tower, run by transformers; images are prepared as on the edge.

    Args:
        checkpoint: of the model.
        device: of model and tower.
        dtype: of the weights.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(
        self, checkpoint: LlavaCheckpoint, device: torch.device, dtype: torch.dtype
    ) -> None:
        llava, self.processor = load_llava(checkpoint, dtype)
        self.llava = llava.to(device)
        # The edge's code prepares images here, too, so that the towers differ by the codec alone.
        self._settings = checkpoint.processor()

    @torch.inference_mode()
    def embed(self, images: Sequence[Image.Image]) -> list[TowerOutput]:
        """See `Tower.embed`."""
        return [self._embed(image) for image in images]

    def _embed(self, image: Image.Image) -> TowerOutput:
        prepared = preprocess(image, self._settings)
        # [1, 3, S, S]
        pixels = torch.from_numpy(prepared)[None].to(self.llava.device, self.llava.dtype)
        output = self.llava.model.get_image_features(pixel_values=pixels)
        return TowerOutput(output.pooler_output[0], digest_of(prepared.tobytes()), None)
