"""Pictures that were asked about: payloads are made once, and what services call them is kept."""

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

PictureSource = ImageSource | View | Payload | EncodedImage
"""A picture, or what was made of it before: a view, a payload, or the path of an `.avq` file."""


@dataclass
class _Remembered:
    """A payload made earlier, and the name that a service has for it, if one does."""

    encoded: EncodedImage
    held_as: bytes = b""
    held_by: str = ""


class RememberedPictures:
    """What is known of the last pictures. Safe to use from several threads.

    Args:
        encoder: makes payloads.
        most: pictures to remember.
        view_of: what the model sees of an image that was given as such.
    """

    def __init__(
        self, encoder: EdgeEncoder, most: int, view_of: Callable[[ImageSource], View]
    ) -> None:
        self._encoder = encoder
        self._view_of = view_of
        self._most = most
        self._known: OrderedDict[bytes, _Remembered] = OrderedDict()
        self._lock = threading.Lock()

    def picture(self, source: PictureSource, quality: str | None = None) -> Picture:
        """A picture as it is to be sent; nothing is encoded yet.

        Raises:
            InvalidInput: the picture cannot be read.
            CorruptPayload: the `.avq` file holds no payload.
            ManifestMismatch: the payload was made with another bundle.
        """
        timings = source.timings if isinstance(source, EncodedImage) else Timings()
        given = source.payload if isinstance(source, EncodedImage) else source
        payload = given_payload(given, self._encoder.digest)
        if payload is not None:
            encoded = EncodedImage(payload, timings)
            return Picture(self, payload.digest(), lambda: encoded)
        assert not isinstance(given, Payload)  # it would have been given
        # The whole picture may be a thousand times as large, and is needed no longer.
        view = given if isinstance(given, View) else self._view_of(given)
        return Picture(
            self,
            view.digest + (quality or "").encode(),
            lambda: self._encoder.encode(view, quality=quality),
        )

    def find(self, key: bytes) -> _Remembered | None:
        """What is known of one; it was used just now."""
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
            return found

    def keep(self, key: bytes, encoded: EncodedImage) -> None:
        """Remember a payload, and what services call it if another question told meanwhile."""
        with self._lock:
            self._known.setdefault(key, _Remembered(encoded))
            self._known.move_to_end(key)
            while len(self._known) > self._most:
                self._known.popitem(last=False)

    def held(self, key: bytes, digest: bytes, target: str) -> None:
        """A service at `target` holds the picture as `digest`; empty: it does not."""
        with self._lock:
            if found := self._known.get(key):
                found.held_as, found.held_by = digest, target


class Picture:
    """One picture that a question is about."""

    def __init__(
        self, remembered: RememberedPictures, key: bytes, make: Callable[[], EncodedImage]
    ) -> None:
        self._remembered = remembered
        self._key = key
        self._make = make
        found = remembered.find(key)
        self.held_as = found.held_as if found else b""
        """What the service called it when this was asked for; empty if none holds it."""
        self.held_by = found.held_by if found else ""
        """Address of that service."""

    def encoded(self) -> EncodedImage:
        """Its payload, from memory if it was made before."""
        found = self._remembered.find(self._key)
        if found is not None:
            return found.encoded
        made = self._make()
        self._remembered.keep(self._key, made)
        return made

    def held(self, digest: bytes, target: str) -> None:
        """See `RememberedPictures.held`."""
        self._remembered.held(self._key, digest, target)
