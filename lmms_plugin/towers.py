"""Pictures to what the language model reads, in this process: through a payload, or unsplit."""

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
    """A picture as the language model gets it."""

    embeds: Tensor
    """`[N', H]`."""
    key: bytes
    """Names the picture, so that questions about it share what the language model makes of it."""
    payload_bytes: int | None
    """Body of its payload; None where there is none."""


class Tower(Protocol):
    """Everything before the language model, and that model."""

    @property
    def llava(self) -> Any:
        """transformers' `LlavaForConditionalGeneration`."""

    @property
    def processor(self) -> Any:
        """transformers' `LlavaProcessor`."""

    def look(self, pictures: Sequence[Image.Image]) -> list[TowerOutput]:
        """What becomes of RGB pictures, in their order."""
        ...


class SplitTower:
    """The edge's encoder and the cloud's decoder, with a payload between them.

    Args:
        model: the cloud half.
        encoder: the edge half, of the same bundle.
        point: one of the bundle's operating points; None: its default.
    """

    def __init__(self, model: CloudModel, encoder: EdgeEncoder, point: str | None) -> None:
        self.llava, self.processor = model.llava, model.processor
        self._encoder = encoder
        self._point = point
        self._decoder = ImageDecoder(model)

    def look(self, pictures: Sequence[Image.Image]) -> list[TowerOutput]:
        """See `Tower.look`. The bytes of a payload are all that the cloud half is given."""
        payloads = [self._encoder.encode(own, quality=self._point).payload for own in pictures]
        found = []
        for payload, decoded in zip(payloads, self._decoder.decode_many(payloads), strict=True):
            if not isinstance(decoded, EngineImage):
                raise decoded
            found.append(TowerOutput(decoded.embeds, payload.digest(), len(payload.body)))
        return found


class WholeTower:
    """The checkpoint's own tower, as transformers runs it; pictures are prepared as on the edge.

    Args:
        checkpoint: of the model.
        device: where it runs.
        dtype: of its weights.

    Raises:
        ConfigError: the checkpoint cannot be used.
    """

    def __init__(
        self, checkpoint: LlavaCheckpoint, device: torch.device, dtype: torch.dtype
    ) -> None:
        llava, self.processor = load_llava(checkpoint, dtype)
        self.llava = llava.to(device)
        self._settings = checkpoint.processor()

    @torch.inference_mode()
    def look(self, pictures: Sequence[Image.Image]) -> list[TowerOutput]:
        """See `Tower.look`."""
        return [self._look(picture) for picture in pictures]

    def _look(self, picture: Image.Image) -> TowerOutput:
        prepared = preprocess(picture, self._settings)
        pixels = torch.from_numpy(prepared)[None].to(self.llava.device, self.llava.dtype)
        output = self.llava.model.get_image_features(pixel_values=pixels)
        return TowerOutput(output.pooler_output[0], digest_of(prepared.tobytes()), None)
