"""Opens image sources as views, in this process or in a decoding process."""

from __future__ import annotations

import os

from aligned_vq.images.load import ImageSource, load_image, read_image_file
from aligned_vq.images.preprocess import View
from edge_client.config import EdgeConfig
from edge_client.decoding.blocking_decoders import BlockingDecoders
from edge_client.decoding.job import Limits
from edge_client.encoder import EdgeEncoder


class ImageOpener:
    """Opens images: resized and cropped to the model's input. Thread-safe.

    Args:
        encoder: prepares images.
        config: allowed formats, where images are decoded, and their time limit.
    """

    def __init__(self, encoder: EdgeEncoder, config: EdgeConfig) -> None:
        self._encoder = encoder
        self._formats = tuple(config.image_formats)
        self._decoders: BlockingDecoders | None = None
        if config.isolate_images:
            limits = Limits(self._formats, seconds=config.image_seconds)
            self._decoders = BlockingDecoders(encoder.manifest.processor, limits)

    def view(self, source: ImageSource) -> View:
        """The model's view of an image; arrays and Pillow images need no decoding.

        Raises:
            InvalidInput: the image cannot be used.
            Overloaded: all decoding slots are taken.
        """
        # Only encoded files are risky to decode; arrays and Pillow images are decoded already.
        if self._decoders is not None:
            if isinstance(source, str | os.PathLike):
                return self._decoders.decode(read_image_file(source), os.fspath(source)).view
            if isinstance(source, bytes | bytearray | memoryview):
                return self._decoders.decode(bytes(source), "the image").view
        return self._encoder.view(load_image(source, formats=self._formats))

    def close(self) -> None:
        """End the decoding processes."""
        if self._decoders is not None:
            self._decoders.close()
