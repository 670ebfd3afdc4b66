"""Images of questions: decoded from payloads, and cached for follow-up questions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

from aligned_vq.telemetry.spans import Span
from aligned_vq.types import Payload, digest_of
from cloud_server.decode.batcher import DecodeBatcher
from cloud_server.decode.lru_byte_cache import LruByteCache

ImageSource = Literal["held", "decoded", "none"]
"""How a question's image came: from the cache, from a payload, or not at all (text only)."""


@dataclass(frozen=True)
class QuestionImage:
    """The image of one question, ready for the engine."""

    source: ImageSource
    engine_input: Tensor | None = field(default=None, repr=False)
    """As in `EngineImage`; None for a text-only question."""
    key: bytes = b""
    """Cache key, salted with the client's identity."""
    digest: bytes = b""
    """What follow-up questions may name it by; empty if the cache does not hold it."""
    stages_ns: Mapping[str, int] = field(default_factory=dict)
    """Nanoseconds per stage of receiving and decoding."""


class ImageStore:
    """Decodes payloads and caches the images per client. Used from the event loop only.

    Args:
        decoder: decodes payloads, in batches and off the event loop.
        max_bytes: size of the cache.
    """

    def __init__(self, decoder: DecodeBatcher, max_bytes: int) -> None:
        self._decoder = decoder
        self._cache: LruByteCache[Tensor] = LruByteCache(max_bytes, lambda image: image.nbytes)

    def text_only(self, identity: str) -> QuestionImage:
        """The place of an image in a text-only question."""
        return QuestionImage("none", key=_image_key(identity, b""))

    def cached(self, identity: str, digest: bytes) -> QuestionImage | None:
        """An image that this client sent earlier; None if the cache does not hold it any more."""
        key = _image_key(identity, digest)
        engine_input = self._cache.get(key)
        return None if engine_input is None else QuestionImage("held", engine_input, key, digest)

    async def decoded(
        self, identity: str, payload: Payload, stages_ns: Mapping[str, int], span: Span
    ) -> QuestionImage:
        """The image of a payload, decoded unless this client's copy is in the cache.

        Args:
            identity: the client.
            payload: what it sent.
            stages_ns: stages before decoding, which the result includes.
            span: records the stages of decoding.

        Raises:
            Overloaded, ManifestMismatch, CorruptPayload: as `DecodeBatcher.decode`.
        """
        digest = payload.digest()
        key = _image_key(identity, digest)
        engine_input = self._cache.get(key)
        if engine_input is None:
            decoded = await self._decoder.decode(payload)
            span.stages(decoded.timings.stages_ns)
            stages_ns = {**stages_ns, **decoded.timings.stages_ns}
            engine_input = decoded.engine_input
            self._cache.put(key, engine_input)
        return QuestionImage(
            # A value larger than the cache is not stored, and must not be offered for follow-up
            # questions.
            "decoded",
            engine_input,
            key,
            digest if key in self._cache else b"",
            stages_ns,
        )


def _image_key(identity: str, digest: bytes) -> bytes:
    """A cache key per client and image: knowing another client's digest gives no access to it."""
    return digest_of(identity.encode(), digest)
