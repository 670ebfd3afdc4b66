"""What the wire's messages say, as dataclasses that hold only what may be served.

Both sides build these, so a bad question fails on the edge before a byte is sent, and in the cloud
with the same words. Imports no generated code.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from types import NoneType, UnionType
from typing import Any, NamedTuple

from aligned_vq.answers import Sampling
from aligned_vq.errors import InvalidInput, ManifestMismatch
from aligned_vq.types import DIGEST_BYTES

MAX_ANSWER_TOKENS = 65_535
MIN_TEMPERATURE = 0.01
"""Of an answer that is sampled: below, one token has all of the probability, and 0 says so."""
MAX_TEMPERATURE = 2.0
MIN_TOP_P = 1e-6
"""Far below any share of a likeliest token; float32 carries it and what it leaves of 1."""
MAX_SEED = (1 << 64) - 1
MAX_STOPS = 4
MAX_STOP_CHARS = 256

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{0,64}")
_Kind = type[Any] | UnionType
_NUMBER: _Kind = int | float
_WHOLE_OR_NONE: _Kind = int | NoneType
_KINDS: dict[str, _Kind] = {
    "max_tokens": int,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "seed": _WHOLE_OR_NONE,
    "stop": tuple,
}
_WORDS: dict[_Kind, str] = {
    int: "a whole number",
    _NUMBER: "a number",
    _WHOLE_OR_NONE: "a whole number or None",
    tuple: "a tuple of texts",
}
_UNICODE = (
    "must be valid Unicode, got half of a surrogate pair: decode the text with the encoding it was "
    "written in"
)


def is_temperature(value: float) -> bool:
    """Is it 0 (greedy) or one to sample by? NaN is neither."""
    return value == 0 or MIN_TEMPERATURE <= value <= MAX_TEMPERATURE


def check_sampling(sampling: Sampling) -> None:
    """InvalidInput unless every number is one, finite and in range.

    `max_tokens` 0 to 65535 (0: the service's default), `temperature` 0 (greedy) or 0.01 to 2,
    `top_p` 0.000001 to 1, `seed` None or an unsigned 64-bit integer, `stop` at most 4 texts of 1 to
    256 characters.
    """
    for name, kind in _KINDS.items():
        value = getattr(sampling, name)
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidInput(
                f"{name} must be {_WORDS[kind]}, got {type(value).__name__}: give one"
            )
    if not 0 <= sampling.max_tokens <= MAX_ANSWER_TOKENS:
        raise InvalidInput(
            f"max_tokens must be 0 (the service's default) to {MAX_ANSWER_TOKENS}, "
            f"got {_shown(sampling.max_tokens)}: ask for fewer"
        )
    if not is_temperature(sampling.temperature):
        raise InvalidInput(
            f"temperature must be 0 or {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, "
            f"got {_shown(sampling.temperature)}: give 0 for greedy answers"
        )
    if not MIN_TOP_P <= sampling.top_p <= 1:
        raise InvalidInput(
            f"top_p must be {MIN_TOP_P:f} to 1, got {_shown(sampling.top_p)}: "
            "give 1 to sample from all tokens"
        )
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise InvalidInput(
            f"seed must be 0 to {MAX_SEED}, got {_shown(sampling.seed)}: give another or leave it "
            "out"
        )
    if not all(isinstance(text, str) for text in sampling.stop):
        raise InvalidInput("stop must be texts, got something else: give them as str")
    lengths = [len(text) for text in sampling.stop]
    if len(lengths) > MAX_STOPS or any(not 1 <= length <= MAX_STOP_CHARS for length in lengths):
        raise InvalidInput(
            f"stop must be at most {MAX_STOPS} texts of 1 to {MAX_STOP_CHARS} characters, "
            f"got {len(lengths)} of {lengths[: MAX_STOPS + 1]}: give fewer or others"
        )
    if any(map(_broken, sampling.stop)):
        raise InvalidInput(f"a stop text {_UNICODE}")


def check_manifest_digest(digest: bytes) -> None:
    """ManifestMismatch unless `digest` has the 16 bytes of a manifest digest."""
    if len(digest) != DIGEST_BYTES:
        raise ManifestMismatch(
            f"a manifest digest has {DIGEST_BYTES} bytes, got {len(digest)}: "
            "send the digest of the bundle that the service answers GetManifest with"
        )


class Turn(NamedTuple):
    """A question that was answered, and its answer. Both stay out of `repr`, hence out of logs."""

    question: str
    answer: str

    def __repr__(self) -> str:
        return "Turn()"


@dataclass(frozen=True)
class Question:
    """What opens an answer; the image comes as a payload, is named by `image_digest`, or there is
    none (`text_only`).

    `request_id` is at most 64 of `A-Z a-z 0-9 . _ : -` (empty: the service chooses), for logs and
    traces alone. `image_digest` is empty, or 16 bytes that offer an image sent earlier. `text` is
    the user's: like the digest and the `turns` before it, it stays out of `repr`, hence out of
    logs. InvalidInput or ManifestMismatch when a field is not so.
    """

    request_id: str
    manifest_digest: bytes
    text: str = field(repr=False)
    sampling: Sampling = field(default_factory=Sampling)
    image_digest: bytes = field(default=b"", repr=False)
    turns: tuple[Turn, ...] = field(default=(), repr=False)
    text_only: bool = False

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
        if self.text_only and self.image_digest:
            raise InvalidInput(
                "a question about no image must name none, got an image digest: leave one of the "
                "two out"
            )
        if _broken(self.text) or any(_broken(turn.question) for turn in self.turns):
            raise InvalidInput(f"a question {_UNICODE}")
        if any(_broken(turn.answer) for turn in self.turns):
            raise InvalidInput(f"an earlier answer {_UNICODE}")
        check_sampling(self.sampling)


@dataclass(frozen=True)
class ServiceInfo:
    """What a service says of itself: a manifest (canonical JSON), that one's digest, its limits,
    and the digests of all it serves.

    `max_question_chars` counts Unicode characters. ManifestMismatch unless digests have 16 bytes.
    """

    manifest_json: str = field(repr=False)
    manifest_digest: bytes
    max_question_chars: int
    max_answer_tokens: int
    service_version: str
    served_digests: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        """Check the digests."""
        for digest in (self.manifest_digest, *self.served_digests):
            check_manifest_digest(digest)


def _shown(number: float) -> str:
    """A number in an error. Python writes no whole number of thousands of digits."""
    if 10**30 < abs(number) < math.inf:
        return "a number of more than 30 digits"
    return str(number)


def _broken(text: str) -> bool:
    """Does it hold what UTF-8 cannot say?"""
    return any("\ud800" <= character <= "\udfff" for character in text)
