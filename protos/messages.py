"""Validated dataclasses of the wire's messages.

Both sides create them, so an invalid question fails on the edge before a byte is sent, and in the
cloud with the same message. Imports no generated code.
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
"""Smallest temperature above 0: below it one token has all of the probability, as with 0."""
MAX_TEMPERATURE = 2.0
MIN_TOP_P = 1e-6
"""Below the probability of any most likely token; float32 represents it and its complement."""
MAX_SEED = (1 << 64) - 1  # of a uint64 on the wire
MAX_STOPS = 4
MAX_STOP_CHARS = 256

_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{0,64}")
_Kind = type[Any] | UnionType
_NUMBER: _Kind = int | float
_INTEGER_OR_NONE: _Kind = int | NoneType
_KINDS: dict[str, _Kind] = {
    "max_tokens": int,
    "temperature": _NUMBER,
    "top_p": _NUMBER,
    "seed": _INTEGER_OR_NONE,
    "stop": tuple,
}
_KIND_NAMES: dict[_Kind, str] = {
    int: "an integer",
    _NUMBER: "a number",
    _INTEGER_OR_NONE: "an integer or None",
    tuple: "a tuple of texts",
}
_NOT_UNICODE = (
    "must be valid Unicode, got half of a surrogate pair; decode the text with its actual encoding"
)


def is_temperature(value: float) -> bool:
    """Whether it is 0 (greedy) or in the range for sampling; NaN is neither."""
    return value == 0 or MIN_TEMPERATURE <= value <= MAX_TEMPERATURE


def check_sampling(sampling: Sampling) -> None:
    """Check that all sampling settings have their types and ranges.

    `max_tokens` 0 to 65535 (0: the service's default), `temperature` 0 (greedy) or 0.01 to 2,
    `top_p` 0.000001 to 1, `seed` None or an unsigned 64-bit integer, `stop` at most 4 texts of 1 to
    256 characters.

    Raises:
        InvalidInput: one of them has not.
    """
    for name, kind in _KINDS.items():
        value = getattr(sampling, name)
        # bool is a subclass of int, but True is no number of tokens.
        if not isinstance(value, kind) or isinstance(value, bool):
            raise InvalidInput(
                f"expected {name} to be {_KIND_NAMES[kind]}, got {type(value).__name__}; set it so"
            )
    if not 0 <= sampling.max_tokens <= MAX_ANSWER_TOKENS:
        raise InvalidInput(
            f"expected max_tokens from 0 (the service's default) to {MAX_ANSWER_TOKENS}, "
            f"got {_format_number(sampling.max_tokens)}; request fewer"
        )
    if not is_temperature(sampling.temperature):
        raise InvalidInput(
            f"expected temperature 0 or from {MIN_TEMPERATURE:g} to {MAX_TEMPERATURE:g}, "
            f"got {_format_number(sampling.temperature)}; choose 0 for greedy answers"
        )
    if not MIN_TOP_P <= sampling.top_p <= 1:
        raise InvalidInput(
            f"expected top_p from {MIN_TOP_P:f} to 1, got {_format_number(sampling.top_p)}; choose "
            "1 to sample from all tokens"
        )
    if sampling.seed is not None and not 0 <= sampling.seed <= MAX_SEED:
        raise InvalidInput(
            f"expected seed from 0 to {MAX_SEED}, got {_format_number(sampling.seed)}; choose "
            "another or leave it out"
        )
    if not all(isinstance(text, str) for text in sampling.stop):
        raise InvalidInput("expected stop texts of type str, got another type; convert them")
    lengths = [len(text) for text in sampling.stop]
    # Errors name lengths only: they are logged, and stop texts are a user's content.
    if len(lengths) > MAX_STOPS or any(not 1 <= length <= MAX_STOP_CHARS for length in lengths):
        raise InvalidInput(
            f"expected at most {MAX_STOPS} stop texts of 1 to {MAX_STOP_CHARS} characters, "
            f"got {len(lengths)} of {lengths[: MAX_STOPS + 1]}; send fewer or others"
        )
    if any(map(_has_surrogate, sampling.stop)):
        raise InvalidInput(f"a stop text {_NOT_UNICODE}")


def check_manifest_digest(digest: bytes) -> None:
    """Check that a manifest digest has 16 bytes.

    Raises:
        ManifestMismatch: it has not.
    """
    if len(digest) != DIGEST_BYTES:
        raise ManifestMismatch(
            f"expected a manifest digest of {DIGEST_BYTES} bytes, got {len(digest)}; send the "
            "digest of the bundle that the service returns from GetManifest"
        )


class Turn(NamedTuple):
    """An earlier question and its answer. `repr` shows neither, so logs cannot."""

    question: str
    answer: str

    def __repr__(self) -> str:
        return "Turn()"


@dataclass(frozen=True)
class Question:
    """A question. Its image comes as a payload, is named by `image_digest`, or is absent
    (`text_only`).

    Texts and digests are left out of `repr`, so logs cannot contain them.

    Args:
        request_id: for logs and traces: at most 64 of `A-Z a-z 0-9 . _ : -`; empty lets the service
            choose.
        manifest_digest: 16 bytes, of the bundle that encoded the image.
        text: the user's text.
        sampling: settings of the answer.
        image_digest: empty, or 16 bytes that name an image sent earlier.
        turns: earlier questions and answers.
        text_only: whether the question has no image.

    Raises:
        InvalidInput: a field is invalid.
        ManifestMismatch: the manifest digest has another length.
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
                "expected a request id of at most 64 letters, digits and . _ : - , "
                f"got {self.request_id[:80]!r}; choose another"
            )
        if len(self.image_digest) not in (0, DIGEST_BYTES):
            raise InvalidInput(
                f"expected an image digest of {DIGEST_BYTES} bytes or none, got "
                f"{len(self.image_digest)}; send the digest of the last answer, or none and the "
                "payload"
            )
        # Either would decide the prompt, so both together are ambiguous.
        if self.text_only and self.image_digest:
            raise InvalidInput(
                "expected no image digest in a text-only question, got one; leave one of the two "
                "out"
            )
        if _has_surrogate(self.text) or any(_has_surrogate(turn.question) for turn in self.turns):
            raise InvalidInput(f"a question {_NOT_UNICODE}")
        if any(_has_surrogate(turn.answer) for turn in self.turns):
            raise InvalidInput(f"an earlier answer {_NOT_UNICODE}")
        check_sampling(self.sampling)


@dataclass(frozen=True)
class ServiceInfo:
    """A service's manifest and limits.

    Args:
        manifest_json: the manifest as canonical JSON.
        manifest_digest: its 16-byte digest.
        max_question_chars: longest question, in Unicode characters.
        max_answer_tokens: largest token limit of an answer.
        service_version: version of the service's software.
        served_digests: digests of all served manifests.

    Raises:
        ManifestMismatch: a digest has another length.
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


def _format_number(number: float) -> str:
    """A number for an error message. Python refuses to format integers of thousands of digits."""
    # Infinity and NaN are floats, which always print.
    if 10**30 < abs(number) < math.inf:
        return "a number of more than 30 digits"
    return str(number)


def _has_surrogate(text: str) -> bool:
    """Whether it contains a lone surrogate, which UTF-8 cannot encode."""
    return any("\ud800" <= character <= "\udfff" for character in text)
