"""Errors over the wire: one table from our errors to gRPC status codes and back.

Several of our errors share a code, and gRPC itself uses some of the codes, so the name of the class
travels beside the code in the trailing metadata. A status without the name did not come from our
service: it is gRPC's own or a proxy's, and is put into words here. Where the service knows how long
to wait before another try, that travels in the trailing metadata too.
"""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol, runtime_checkable

import grpc

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    CorruptPayload,
    DeadlineExceeded,
    EngineError,
    ImageNotHeld,
    InvalidInput,
    ManifestMismatch,
    Overloaded,
    QuotaExceeded,
    TrainingError,
    Unauthenticated,
)

ERROR_KEY = "alignedvq-error"
RETRY_KEY = "retry-after-ms"
MAX_RETRY_MS = 3_600_000
MAX_DETAILS_BYTES = 1_000

StatusCode = grpc.StatusCode

STATUS_CODES: dict[type[AlignedVQError], grpc.StatusCode] = {
    AlignedVQError: StatusCode.UNKNOWN,
    ConfigError: StatusCode.FAILED_PRECONDITION,
    InvalidInput: StatusCode.INVALID_ARGUMENT,
    ImageNotHeld: StatusCode.NOT_FOUND,
    ManifestMismatch: StatusCode.FAILED_PRECONDITION,
    CorruptPayload: StatusCode.DATA_LOSS,
    Overloaded: StatusCode.RESOURCE_EXHAUSTED,
    QuotaExceeded: StatusCode.RESOURCE_EXHAUSTED,
    EngineError: StatusCode.INTERNAL,
    Unauthenticated: StatusCode.UNAUTHENTICATED,
    TrainingError: StatusCode.INTERNAL,  # no service trains, but the table holds every error
    CloudUnreachable: StatusCode.UNAVAILABLE,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
}
_BY_NAME = {error.__name__: error for error in STATUS_CODES}


class _Unnamed(NamedTuple):
    """What a status without the name of our error means to the client."""

    error: type[AlignedVQError]
    words: str


_ENGINE = "the service failed: its log says why"
_LOGIN = "the service refused this client: check its certificate or token"
_OTHER = "expected an alignedvq.v1 service, got another: check the address"

UNNAMED: dict[grpc.StatusCode, _Unnamed] = {
    StatusCode.CANCELLED: _Unnamed(
        CloudUnreachable, "the call was cancelled before the answer was complete: ask again"
    ),
    StatusCode.UNKNOWN: _Unnamed(EngineError, _ENGINE),
    StatusCode.INVALID_ARGUMENT: _Unnamed(InvalidInput, "the request was refused: send another"),
    StatusCode.DEADLINE_EXCEEDED: _Unnamed(
        DeadlineExceeded, "no answer within the deadline: allow more time or ask for fewer tokens"
    ),
    StatusCode.NOT_FOUND: _Unnamed(CloudUnreachable, _OTHER),
    StatusCode.ALREADY_EXISTS: _Unnamed(EngineError, _ENGINE),
    StatusCode.PERMISSION_DENIED: _Unnamed(ConfigError, _LOGIN),
    StatusCode.RESOURCE_EXHAUSTED: _Unnamed(Overloaded, "a limit was reached: try again later"),
    StatusCode.FAILED_PRECONDITION: _Unnamed(EngineError, _ENGINE),
    StatusCode.ABORTED: _Unnamed(EngineError, _ENGINE),
    StatusCode.OUT_OF_RANGE: _Unnamed(InvalidInput, "the request was refused: send another"),
    StatusCode.UNIMPLEMENTED: _Unnamed(
        CloudUnreachable,
        "a gRPC server answered that does not speak alignedvq.v1: check address and version",
    ),
    StatusCode.INTERNAL: _Unnamed(EngineError, _ENGINE),
    StatusCode.UNAVAILABLE: _Unnamed(
        CloudUnreachable,
        "no service answered: check that it runs, the address, and TLS on both sides",
    ),
    StatusCode.DATA_LOSS: _Unnamed(
        CorruptPayload, "bytes were damaged on the way: send them again"
    ),
    StatusCode.UNAUTHENTICATED: _Unnamed(Unauthenticated, _LOGIN),
}
_ANOTHER_SERVICE = (StatusCode.UNIMPLEMENTED, StatusCode.NOT_FOUND)
_TOO_LARGE = _Unnamed(
    InvalidInput, "a message was larger than the limit: shorten the question or lower the rate"
)


class Status(NamedTuple):
    """What a service aborts a call with: `context.abort(*status)` for `grpc.aio`."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...]


@runtime_checkable
class _FinishedCall(Protocol):
    """What errors of `grpc` and `grpc.aio` have in common, beyond `grpc.RpcError`."""

    def code(self) -> grpc.StatusCode | None: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> object: ...


def status_of(error: BaseException) -> Status:
    """The status to end a call with: code, at most 1,000 bytes of printable text, metadata.

    A subclass goes as its nearest ancestor in the table. An error that is not ours goes as
    EngineError with fixed words: its own may hold a prompt or a path.
    """
    for ancestor in type(error).__mro__:
        if ancestor in STATUS_CODES:
            name, code = ancestor.__name__, STATUS_CODES[ancestor]
            return Status(code, _printable(str(error)), ((ERROR_KEY, name), *_retry_of(error)))
    return Status(STATUS_CODES[EngineError], _ENGINE, ((ERROR_KEY, EngineError.__name__),))


def error_from_rpc(rpc_error: grpc.RpcError) -> AlignedVQError:
    """Our error for a failed call of `grpc` or `grpc.aio`: raise it `from` the one given.

    With our name in the trailing metadata it is that class with the service's words. Without, the
    code chooses the class, and the words say what happened, what to do, and gRPC's own details. An
    `Overloaded` also gets the wait that the metadata asks for.
    """
    call: object = rpc_error  # its stub promises what a bare RpcError lacks
    if not isinstance(call, _FinishedCall):
        return _unnamed(UNNAMED[StatusCode.UNAVAILABLE], None, str(rpc_error))
    error = _error_of(call)
    if isinstance(error, Overloaded):
        error.retry_after_seconds = _retry_seconds(_value(call.trailing_metadata(), RETRY_KEY))
    if isinstance(error, CloudUnreachable):
        error.another_service = call.code() in _ANOTHER_SERVICE
    return error


def _error_of(call: _FinishedCall) -> AlignedVQError:
    details = _printable(call.details() or "")
    name = _value(call.trailing_metadata(), ERROR_KEY)
    if name in _BY_NAME:
        return _BY_NAME[name](details)
    code = call.code()
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return _unnamed(_TOO_LARGE, code, details)
    return _unnamed(
        UNNAMED.get(code or StatusCode.UNKNOWN, UNNAMED[StatusCode.UNKNOWN]), code, details
    )


def _unnamed(row: _Unnamed, code: grpc.StatusCode | None, details: str) -> AlignedVQError:
    origin = ": ".join(part for part in (code.name if code else "", _printable(details)) if part)
    return row.error(f"{row.words} ({origin})" if origin else row.words)


def _value(metadata: object, wanted: str) -> str | None:
    for item in metadata if isinstance(metadata, (tuple, grpc.aio.Metadata)) else ():
        key, value = item
        if key == wanted and isinstance(value, str):
            return value
    return None


def _retry_of(error: BaseException) -> tuple[tuple[str, str], ...]:
    seconds = error.retry_after_seconds if isinstance(error, Overloaded) else None
    if seconds is None:
        return ()
    return ((RETRY_KEY, str(min(max(0, math.ceil(1e3 * seconds)), MAX_RETRY_MS))),)


def _retry_seconds(text: str | None) -> float | None:
    """Whatever a proxy may have put there: a number of milliseconds up to an hour, or nothing."""
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 9:
        return None
    return min(int(text), MAX_RETRY_MS) / 1e3


def _printable(text: str) -> str:
    """One line of printable text, at most 1,000 bytes in UTF-8: safe in a header and in a log."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    encoded = line.encode("utf-8", "replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return encoded.decode()
    return encoded[: MAX_DETAILS_BYTES - 3].decode("utf-8", "ignore") + "..."
