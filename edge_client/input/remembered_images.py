"""A cache of encoded images, and of the digests under which services cache them.

A follow-up question about an image so needs no encoding, and sends a digest instead of a payload.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aligned_vq.answers import Timings
from aligned_vq.errors import InvalidInput
from aligned_vq.images.load import ImageSource
from aligned_vq.images.preprocess import View
from aligned_vq.types import Payload
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.input.payload_source import payload_from

ImageOrPayload = ImageSource | View | Payload | EncodedImage
"""An image, a view, a payload, or the path of an image or an `.avq` file."""


@dataclass
class _CachedImage:
    """A payload, and the service that caches the image, if one does."""

    encoded: EncodedImage
    service_digest: bytes = b""
    service_target: str = ""


class RememberedImages:
    """Payloads of the most recently used images. Thread-safe.

    Args:
        encoder: makes payloads.
        capacity: number of images.
        open_view: opens an image source of a modality as the model's view of it.
    """

    def __init__(
        self, encoder: EdgeEncoder, capacity: int, open_view: Callable[[ImageSource, str], View]
    ) -> None:
        self._encoder = encoder
        self._open_view = open_view
        self._capacity = capacity
        self._images: OrderedDict[bytes, _CachedImage] = OrderedDict()  # least recently used first
        self._lock = threading.Lock()

    def pending(
        self, source: ImageOrPayload, quality: str | None = None, modality: str = "rgb"
    ) -> PendingImage:
        """The image of a question, to be encoded on demand.

        Args:
            source: of the image.
            quality: operating point; None: the bundle's default.
            modality: of an image that is not encoded yet; see `SamplingOptions.modality`.

        Raises:
            InvalidInput: the image cannot be used, or it is a view of another modality.
            CorruptPayload: the `.avq` file holds no payload.
            ManifestMismatch: the payload was made with another bundle.
        """
        timings = source.timings if isinstance(source, EncodedImage) else Timings()
        unwrapped = source.payload if isinstance(source, EncodedImage) else source
        payload = payload_from(unwrapped, self._encoder.digest)
        if payload is not None:
            return PendingImage(self, payload.digest(), EncodedImage(payload, timings), quality)
        assert not isinstance(unwrapped, Payload)  # `payload_from` returned it
        # Only the view stays in memory: the image itself may be a thousand times as large.
        view = unwrapped if isinstance(unwrapped, View) else self._open_view(unwrapped, modality)
        if modality not in ("rgb", view.modality):
            raise InvalidInput(
                f"expected a view of {modality}, got one of {view.modality}; open the image with "
                "that modality, or leave it out, as a view has its own"
            )
        # The payload, and so the key, depends on the operating point.
        return PendingImage(self, view.digest + (quality or "").encode(), view, quality)

    def find(self, key: bytes) -> _CachedImage | None:
        """The image of that key, marked as the most recently used; None if it is not cached."""
        with self._lock:
            cached = self._images.get(key)
            if cached is not None:
                self._images.move_to_end(key)
            return cached

    def encode(self, key: bytes, view: View, quality: str | None) -> EncodedImage:
        """Encode a view and cache the payload."""
        encoded = self._encoder.encode(view, quality=quality)
        self.add(key, encoded)
        return encoded

    def add(self, key: bytes, encoded: EncodedImage) -> None:
        """Cache a payload; evict the least recently used beyond the capacity."""
        with self._lock:
            # Concurrent questions may encode the same image: the first entry keeps its digest.
            self._images.setdefault(key, _CachedImage(encoded))
            self._images.move_to_end(key)
            while len(self._images) > self._capacity:
                self._images.popitem(last=False)

    def record_cached(self, key: bytes, digest: bytes, target: str) -> None:
        """The service at `target` caches the image under `digest`; empty: it does not."""
        with self._lock:
            if cached := self._images.get(key):
                cached.service_digest, cached.service_target = digest, target


class PendingImage:
    """The image of one question: encoded when its payload is needed, and at most once."""

    def __init__(
        self,
        remembered: RememberedImages,
        key: bytes,
        source: View | EncodedImage,
        quality: str | None,
    ) -> None:
        self._remembered = remembered
        self._key = key
        self._source = source
        self._quality = quality
        cached = remembered.find(key)
        self.service_digest = cached.service_digest if cached else b""
        """Digest under which a service cached it when the question began; empty if none did."""
        self.service_target = cached.service_target if cached else ""
        """Address of that service."""

    def encoded(self) -> EncodedImage:
        """Its payload, from the cache if it was made before."""
        cached = self._remembered.find(self._key)
        if cached is not None:
            return cached.encoded
        if isinstance(self._source, View):
            return self._remembered.encode(self._key, self._source, self._quality)
        self._remembered.add(self._key, self._source)
        return self._source

    def record_cached(self, digest: bytes, target: str) -> None:
        """See `RememberedImages.record_cached`."""
        self._remembered.record_cached(self._key, digest, target)
