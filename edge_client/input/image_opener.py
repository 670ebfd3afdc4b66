"""Opens image sources as views, in this process or in a decoding process."""

from __future__ import annotations

import os
from collections.abc import Sequence

from aligned_vq.images.load import ImageSource, read_image_file
from aligned_vq.images.preparation import Preparation, open_source
from aligned_vq.images.preprocess import View
from aligned_vq.images.processor import ProcessorSettings
from edge_client.decoding.blocking_decoders import BlockingDecoders
from edge_client.decoding.job import Limits


class ImageOpener:
    """Opens images: resized and cropped to a model's input. Thread-safe.

    Args:
        processor: sizes of the model's input.
        formats: allowed formats of files and encoded bytes.
        isolate: decode them in separate processes.
        seconds: longest decoding time of an image in such a process.
    """

    def __init__(
        self, processor: ProcessorSettings, formats: Sequence[str], isolate: bool, seconds: float
    ) -> None:
        self._formats = tuple(formats)
        self._decoders: BlockingDecoders | None = None
        if isolate:
            self._decoders = BlockingDecoders(processor, Limits(self._formats, seconds=seconds))

    def view(self, source: ImageSource, preparation: Preparation) -> View:
        """The model's view of an image; arrays and Pillow images need no decoding.

        Args:
            source: see `open_source`.
            preparation: modality and settings.

        Raises:
            InvalidInput: the image cannot be used.
            Overloaded: all decoding slots are taken.
        """
        # Only encoded files are risky to decode; arrays and Pillow images are decoded already.
        if self._decoders is not None:
            if isinstance(source, str | os.PathLike):
                data, name = read_image_file(source), os.fspath(source)
                return self._decoders.decode(data, name, preparation).view
            if isinstance(source, bytes | bytearray | memoryview):
                return self._decoders.decode(bytes(source), "the image", preparation).view
        return open_source(source, preparation, self._formats)

    def close(self) -> None:
        """End the decoding processes."""
        if self._decoders is not None:
            self._decoders.close()
