"""From an image to a payload: preprocess, prefix, quantize, pack. Knows nothing of the network."""

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
    """A payload and how long each stage took."""

    payload: Payload
    timings: Timings


class EdgeEncoder:
    """The edge half of the model. Safe to call from several threads; runs one image at a time.

    Args:
        bundle: directory written by `aligned-vq export`.
        backend: what runs it (`open_backend`).
        dtype: of the vision prefix.
        threads: that compute; 0 leaves it to the backend.

    Raises:
        ConfigError: the bundle is incomplete, damaged or newer than this program, or what the
            backend needs is missing.
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
        self.digest = self.backend.spec.digest
        self._lock = threading.Lock()

    def check_quality(self, name: str | None) -> None:
        """InvalidInput unless the bundle has an operating point of that name (None: any)."""
        names = [point.name for point in self.manifest.operating_points]
        if name is not None and name not in names:
            raise InvalidInput(
                f"expected a quality of this bundle ({', '.join(names) or 'it has none'}), "
                f"got {name!r}; choose one of them"
            )

    def view(self, image: Image.Image) -> View:
        """What the model sees of an RGB image: small, and all that `encode` needs of it.

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
        """The payload of an RGB image, or of what the model sees of it.

        `quality` names an operating point of the bundle, None its default; `coding` None takes the
        smallest.

        Raises:
            ConfigError: the bundle has no such quality.
        """
        with self._lock:
            watch = Stopwatch()
            output = self._run_prefix(image, watch)
            payload = self.backend.spec.compress(output, quality, coding)
            watch.lap("compress")
        return EncodedImage(payload, watch.timings())

    def payload_bytes(self, image: Image.Image | View) -> dict[str, int]:
        """What an RGB image costs at each of the bundle's operating points, by their names."""
        spec = self.backend.spec
        with self._lock:
            output = self._run_prefix(image, Stopwatch())
            return {
                point.name: len(spec.compress(output, point.name).body)
                for point in self.manifest.operating_points
            }

    def _run_prefix(self, image: Image.Image | View, watch: Stopwatch) -> PrefixOutput:
        view = image if isinstance(image, View) else self.view(image)
        pixels = normalize(view, self.manifest.processor)
        watch.lap("preprocess")
        output = self.backend.run_prefix(pixels)
        watch.lap("prefix")
        return output

    def unpack(self, payload: Payload) -> Encoded:
        """The indices in a payload that this encoder made, stage by stage."""
        spec = self.backend.spec
        return unpack(
            payload, spec.quantizer, spec.features.num_tokens, spec.statistics, spec.tables
        )
