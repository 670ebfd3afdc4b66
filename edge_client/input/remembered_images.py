"""Images that questions were asked about: payloads are made once, and the names that services gave
them are remembered."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aligned_vq.answers import Timings
from aligned_vq.images.load import ImageSource
from aligned_vq.images.preprocess import View
from aligned_vq.types import Payload
from edge_client.encoder import EdgeEncoder, EncodedImage
from edge_client.input.payload_source import given_payload

ImageOrPayload = ImageSource | View | Payload | EncodedImage
"""An image, or what was made of it before: a view, a payload, or the path of an `.avq` file."""


@dataclass
class _Remembered:
    """A payload made earlier, and the name that a service has for it, if one does."""

    encoded: EncodedImage
    held_as: bytes = b""
    held_by: str = ""


class RememberedImages:
    """Payloads of the most recently used images. Safe to use from several threads.

    Args:
        encoder: makes payloads.
        capacity: images to remember.
        view_of: opens an image source as the model's view of it.
    """

    def __init__(
        self, encoder: EdgeEncoder, capacity: int, view_of: Callable[[ImageSource], View]
    ) -> None:
        self._encoder = encoder
        self._view_of = view_of
        self._capacity = capacity
        self._known: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._lock = threading.Lock()

    def pending(self, source: ImageOrPayload, quality: str | None = None) -> PendingImage:
        """An image that is not yet encoded.

        Raises:
            InvalidInput: the image cannot be read.
            CorruptPayload: the `.avq` file holds no payload.
            ManifestMismatch: the payload was made with another bundle.
        """
        timings = source.timings if isinstance(source, EncodedImage) else Timings()
        unwrapped = source.payload if isinstance(source, EncodedImage) else source
        payload = given_payload(unwrapped, self._encoder.digest)
        if payload is not None:
            return PendingImage(self, payload.digest(), EncodedImage(payload, timings), quality)
        assert not isinstance(unwrapped, Payload)  # `given_payload` returned it
        # From here on only the view is held: an image may be a thousand times as large.
        view = unwrapped if isinstance(unwrapped, View) else self._view_of(unwrapped)
        return PendingImage(self, view.digest + (quality or "").encode(), view, quality)

    def find(self, key: bytes) -> _Remembered | None:
        """The image of that key, marked as the most recently used; None if it is not known."""
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
            return known

    def encode(self, key: bytes, view: View, quality: str | None) -> EncodedImage:
        """Encode a view and remember the payload."""
        encoded = self._encoder.encode(view, quality=quality)
        self.remember(key, encoded)
        return encoded

    def remember(self, key: bytes, encoded: EncodedImage) -> None:
        """Add a payload; forget the least recently used beyond the capacity."""
        with self._lock:
            self._known.setdefault(key, _Remembered(encoded))
            self._known.move_to_end(key)
            while len(self._known) > self._capacity:
                self._known.popitem(last=False)

    def held(self, key: bytes, digest: bytes, target: str) -> None:
        """The service at `target` holds the image as `digest`; empty: it does not."""
        with self._lock:
            if known := self._known.get(key):
                known.held_as, known.held_by = digest, target


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
        known = remembered.find(key)
        self.held_as = known.held_as if known else b""
        """The service's name of it when the question began; empty if no service holds it."""
        self.held_by = known.held_by if known else ""
        """Address of that service."""

    def encoded(self) -> EncodedImage:
        """Its payload, from memory if it was made before."""
        known = self._remembered.find(self._key)
        if known is not None:
            return known.encoded
        if isinstance(self._source, View):
            return self._remembered.encode(self._key, self._source, self._quality)
        self._remembered.remember(self._key, self._source)
        return self._source

    def held(self, digest: bytes, target: str) -> None:
        """See `RememberedImages.held`."""
        self._remembered.held(self._key, digest, target)
