"""What a client calls an image becomes what the model sees, here or in a process of its own."""

from __future__ import annotations

import os

from aligned_vq.images.load import ImageSource, load_image, read_image_file
from aligned_vq.images.preprocess import View
from edge_client.config import EdgeConfig
from edge_client.decoding.decoders import BlockingDecoders
from edge_client.decoding.job import Limits
from edge_client.encoder import EdgeEncoder


class ImageOpener:
    """Safe to use from several threads.

    Args:
        encoder: prepares images.
        config: which formats may be opened, where that happens, and how long it may take.
    """

    def __init__(self, encoder: EdgeEncoder, config: EdgeConfig) -> None:
        self._encoder = encoder
        self._formats = tuple(config.image_formats)
        self._decoders: BlockingDecoders | None = None
        if config.isolate_images:
            limits = Limits(self._formats, seconds=config.image_seconds)
            self._decoders = BlockingDecoders(encoder.manifest.processor, limits)

    def view(self, source: ImageSource) -> View:
        """What the model sees of an image; arrays and Pillow images need no decoding.

        Raises:
            InvalidInput: it cannot be used.
            Overloaded: as many as may be are being decoded.
        """
        if self._decoders is not None:
            if isinstance(source, str | os.PathLike):
                return self._decoders.decode(read_image_file(source), os.fspath(source)).view
            if isinstance(source, bytes | bytearray | memoryview):
                return self._decoders.decode(bytes(source), "the image").view
        return self._encoder.view(load_image(source, formats=self._formats))

    def close(self) -> None:
        """End the processes."""
        if self._decoders is not None:
            self._decoders.close()
