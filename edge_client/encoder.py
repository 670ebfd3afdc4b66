"""From an image to a payload: preprocess, prefix, quantize, pack. Knows nothing of the network."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from aligned_vq.answers import Timings
from aligned_vq.bundle import open_edge_bundle
from aligned_vq.errors import InvalidInput
from aligned_vq.manifest import SplitManifest
from aligned_vq.stopwatch import Stopwatch
from aligned_vq.types import Coding, Payload
from edge_client.preprocess import preprocess


class EncodedImage(NamedTuple):
    """A payload and how long each stage took."""

    payload: Payload
    timings: Timings


class EdgeEncoder:
    """The edge half of the model. Safe to call from several threads; runs one image at a time.

    Args:
        bundle: directory written by `aligned-vq export`.
        dtype: of the vision prefix.

    Raises:
        ConfigError: the bundle is incomplete, damaged or newer than this program.
    """

    def __init__(self, bundle: str | Path, dtype: torch.dtype = torch.float32) -> None:
        opened = open_edge_bundle(bundle, dtype)
        self.manifest: SplitManifest = opened.manifest
        self.digest = opened.codec.spec.digest
        self._prefix = opened.prefix
        self._codec = opened.codec
        self._dtype = dtype
        self._lock = threading.Lock()

    def check_quality(self, name: str | None) -> None:
        """InvalidInput unless the bundle has an operating point of that name (None: any)."""
        names = [point.name for point in self.manifest.operating_points]
        if name is not None and name not in names:
            raise InvalidInput(
                f"expected a quality of this bundle ({', '.join(names) or 'it has none'}), "
                f"got {name!r}; choose one of them"
            )

    @torch.inference_mode()
    def encode(
        self,
        image: Image.Image,
        *,
        quality: str | None = None,
        coding: Coding | None = None,
    ) -> EncodedImage:
        """The payload of an RGB image.

        `quality` names an operating point of the bundle, None its default; `coding` None takes the
        smallest.

        Raises:
            ConfigError: the bundle has no such quality.
        """
        with self._lock:
            watch = Stopwatch()
            pixels = torch.from_numpy(preprocess(image, self.manifest.processor))
            watch.lap("preprocess")
            features, residual = self._prefix(pixels[None].to(self._dtype))
            watch.lap("prefix")
            payload = self._codec.compress(
                features[0],
                residual[0],
                point=quality,
                coding=coding,
            )
            watch.lap("compress")
        return EncodedImage(payload, watch.timings())
