"""From an image to a payload: preprocess, prefix, quantize, pack. Independent of the network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from aligned_vq.answers import Timings
from aligned_vq.bitstream import unpack
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import PrefixOutput
from aligned_vq.errors import InvalidInput
from aligned_vq.images.preprocess import View, normalize, view_of
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Coding, Encoded, Payload
from edge_client.backends.base import BackendChoice, Precision
from edge_client.backends.choice import open_backend


class EncodedImage(NamedTuple):
    """A payload and the duration of each encoding stage."""

    payload: Payload
    timings: Timings


class EdgeEncoder:
    """The edge half of the model. Thread-safe; encodes one image at a time.

    Args:
        bundle: directory written by `aligned-vq export`.
        backend: see `open_backend`.
        dtype: precision of the vision prefix.
        threads: compute threads; 0: the backend's default.

    Raises:
        ConfigError: the bundle is incomplete, damaged or newer than this program, or a requirement
            of the backend is missing.
    """

    def __init__(
        self,
        bundle: str | Path,
        backend: BackendChoice = "auto",
        dtype: Precision = "float32",
        threads: int = 0,
    ) -> None:
        self.manifest: SplitManifest = read_manifest(bundle)
        self.backend = open_backend(Path(bundle), self.manifest, backend, dtype, threads)
        self.digest = self.backend.spec.digest  # names the bundle in questions and payloads
        self._lock = threading.Lock()

    def check_quality(self, name: str | None) -> None:
        """InvalidInput unless the bundle has an operating point of that name; None is valid."""
        names = [point.name for point in self.manifest.operating_points]
        if name is not None and name not in names:
            raise InvalidInput(
                f"expected a quality of this bundle ({', '.join(names) or 'it has none'}), "
                f"got {name!r}; choose one of them"
            )

    def view(self, image: Image.Image) -> View:
        """The model's view of an RGB image: small, and all that `encode` needs of it.

        Raises:
            InvalidInput: the image is too elongated for a bundle that pads.
        """
        return view_of(image, self.manifest.processor)

    def encode(
        self,
        image: Image.Image | View,
        *,
        quality: str | None = None,
        coding: Coding | None = None,
    ) -> EncodedImage:
        """The payload of an RGB image or of its view.

        Args:
            image: to encode.
            quality: name of the operating point; None: the bundle's default.
            coding: of the indices; None: the one with the smallest payload.

        Raises:
            ConfigError: the bundle has no such operating point.
        """
        # One image at a time: another one would compete for the same cores and double the memory.
        with self._lock:
            stopwatch = Stopwatch()
            output = self._run_prefix(image, stopwatch)
            payload = self.backend.spec.compress(output, quality, coding)
            stopwatch.lap("compress")
        return EncodedImage(payload, stopwatch.timings())

    def payload_bytes(self, image: Image.Image | View) -> dict[str, int]:
        """Payload body sizes of an RGB image, by operating point."""
        spec = self.backend.spec
        with self._lock:
            # The prefix runs once: operating points differ only in what follows it.
            output = self._run_prefix(image, Stopwatch())
            return {
                point.name: len(spec.compress(output, point.name).body)
                for point in self.manifest.operating_points
            }

    def _run_prefix(self, image: Image.Image | View, stopwatch: Stopwatch) -> PrefixOutput:
        view = image if isinstance(image, View) else self.view(image)
        pixels = normalize(view, self.manifest.processor)
        stopwatch.lap("preprocess")
        output = self.backend.run_prefix(pixels)
        stopwatch.lap("prefix")
        return output

    def unpack(self, payload: Payload) -> Encoded:
        """The indices of each stage in a payload that this encoder made."""
        spec = self.backend.spec
        return unpack(
            payload, spec.quantizer, spec.features.num_tokens, spec.statistics, spec.tables
        )
