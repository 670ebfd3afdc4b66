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
from aligned_vq.images.modality import Pixels
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View, normalize
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Coding, Encoded, Payload
from edge_client.backends.base import BackendChoice, Precision
from edge_client.backends.choice import open_backend


class EncodedImage(NamedTuple):
    """A payload and the duration of each encoding stage."""

    payload: Payload
    timings: Timings


class EdgeEncoder:
    """The edge halves of the model. Thread-safe; encodes one image at a time.

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

    def preparation(self, modality: str = "rgb") -> Preparation:
        """How an image of a modality becomes a view; InvalidInput if the bundle has it not."""
        half = self.manifest.edge_half(modality)
        names = (entry.modality for entry in self.manifest.modalities)
        return Preparation.among(self.manifest.processor, half.modality, half.range, names)

    def view(self, image: Image.Image | Pixels) -> View:
        """The model's view of an RGB image or of the pixels of a modality: small, and all that
        `encode` needs of it.

        Raises:
            InvalidInput: the image is too elongated for a bundle that pads, the bundle has not the
                modality, or the pixels show nothing.
        """
        modality = image.modality if isinstance(image, Pixels) else "rgb"
        return self.preparation(modality).view(image)

    def encode(
        self,
        image: Image.Image | Pixels | View,
        *,
        quality: str | None = None,
        coding: Coding | None = None,
    ) -> EncodedImage:
        """The payload of an image or of its view, by the prefix of its modality.

        Args:
            image: an RGB image of Pillow, pixels of a modality, or a view of either.
            quality: name of the operating point; None: the bundle's default.
            coding: of the indices; None: the one with the smallest payload.

        Raises:
            InvalidInput: as `view`.
            ConfigError: the bundle has no such operating point, or the modality's files are
                incomplete or damaged.
        """
        # One image at a time: another one would compete for the same cores and double the memory.
        with self._lock:
            stopwatch = Stopwatch()
            output = self._run_prefix(image, stopwatch)
            payload = self.backend.spec.compress(output, quality, coding)
            stopwatch.lap("compress")
        return EncodedImage(payload, stopwatch.timings())

    def payload_bytes(self, image: Image.Image | Pixels | View) -> dict[str, int]:
        """Payload body sizes of an image, by operating point; arguments and errors as `encode`."""
        spec = self.backend.spec
        with self._lock:
            # The prefix runs once: operating points differ only in what follows it.
            output = self._run_prefix(image, Stopwatch())
            return {
                point.name: len(spec.compress(output, point.name).body)
                for point in self.manifest.operating_points
            }

    def _run_prefix(self, image: Image.Image | Pixels | View, stopwatch: Stopwatch) -> PrefixOutput:
        view = image if isinstance(image, View) else self.view(image)
        pixels = normalize(view, self.manifest.processor)
        stopwatch.lap("preprocess")
        output = self.backend.run_prefix(pixels, view.modality)
        stopwatch.lap("prefix")
        return output

    def unpack(self, payload: Payload) -> Encoded:
        """The indices of each stage in a payload that this encoder made."""
        spec = self.backend.spec
        return unpack(
            payload, spec.quantizer, spec.features.num_tokens, spec.statistics, spec.tables
        )
