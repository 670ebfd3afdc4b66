"""What the wire's messages say, as dataclasses that hold only what may be served.

Both sides build these, so a bad question fails on the edge before a byte is sent, and in the cloud
with the same words. Imports no generated code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

from aligned_vq.answers import Sampling
from aligned_vq.errors import InvalidInput, ManifestMismatch
from aligned_vq.types import DIGEST_BYTES

MAX_ANSWER_TOKENS = 65_535
MAX_TEMPERATURE = 10.0
MAX_SEED = (1 << 64) - 1

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{0,64}")


def check_sampling(sampling: Sampling) -> None:
    """InvalidInput unless every number is finite and in range.

    `max_tokens` 0 to 65535 (0: the service's default), `temperature` 0 to 10, `top_p` above 0 to 1,
    `seed` None or an unsigned 64-bit integer.
    """
    if not 0 <= sampling.max_tokens <= MAX_ANSWER_TOKENS:
        raise InvalidInput(
            f"max_tokens must be 0 (the service's default) to {MAX_ANSWER_TOKENS}, "
            f"got {sampling.max_tokens}: ask for fewer"
        )
    if not (math.isfinite(sampling.temperature) and 0 <= sampling.temperature <= MAX_TEMPERATURE):
        raise InvalidInput(
            f"temperature must be 0 to {MAX_TEMPERATURE:g}, got {sampling.temperature}: "
            "give 0 for greedy answers"
        )
    if not (math.isfinite(sampling.top_p) and 0 < sampling.top_p <= 1):
        raise InvalidInput(
            f"top_p must be above 0 and at most 1, got {sampling.top_p}: "
            "give 1 to sample from all tokens"
        )
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise InvalidInput(
            f"seed must be 0 to {MAX_SEED}, got {sampling.seed}: give another or leave it out"
        )


def check_manifest_digest(digest: bytes) -> None:
    """ManifestMismatch unless `digest` has the 16 bytes of a manifest digest."""
    if len(digest) != DIGEST_BYTES:
        raise ManifestMismatch(
            f"a manifest digest has {DIGEST_BYTES} bytes, got {len(digest)}: "
            "send the digest of the bundle that the service answers GetManifest with"
        )


@dataclass(frozen=True)
class Question:
    """What opens an answer; the image comes as a payload or is named by `image_digest`.

    `request_id` is at most 64 of `A-Z a-z 0-9 . _ : -` (empty: the service chooses), for logs and
    deduplication. `image_digest` is empty, or 16 bytes that offer an image sent earlier. `text` is
    the user's: it stays out of `repr`, hence out of logs. InvalidInput or ManifestMismatch when a
    field is not so.
    """

    request_id: str
    manifest_digest: bytes
    text: str = field(repr=False)
    sampling: Sampling = field(default_factory=Sampling)
    image_digest: bytes = b""

    def __post_init__(self) -> None:
        """Check every field."""
        check_manifest_digest(self.manifest_digest)
        if not _REQUEST_ID.fullmatch(self.request_id):
            raise InvalidInput(
                "a request id is at most 64 letters, digits and . _ : - , "
                f"got {self.request_id[:80]!r}: choose another"
            )
        if len(self.image_digest) not in (0, DIGEST_BYTES):
            raise InvalidInput(
                f"an image digest has {DIGEST_BYTES} bytes or none, got {len(self.image_digest)}: "
                "send the digest of the last answer, or none and the payload"
            )
        if any("\ud800" <= character <= "\udfff" for character in self.text):
            raise InvalidInput(
                "a question must be valid Unicode, got half of a surrogate pair: "
                "decode the text with the encoding it was written in"
            )
        check_sampling(self.sampling)


@dataclass(frozen=True)
class ServiceInfo:
    """What a service says of itself: its manifest (canonical JSON), that one's digest, its limits.

    `max_question_chars` counts Unicode characters. ManifestMismatch unless the digest has 16 bytes.
    """

    manifest_json: str = field(repr=False)
    manifest_digest: bytes
    max_question_chars: int
    max_answer_tokens: int
    service_version: str

    def __post_init__(self) -> None:
        """Check the digest."""
        check_manifest_digest(self.manifest_digest)
