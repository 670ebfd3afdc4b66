"""Errors over the wire: one table from this project's errors to gRPC status codes and back.

Several errors share a code, and gRPC itself uses some of the codes, so the name of the class is
sent in the trailing metadata. A status without a name did not come from this project's service, but
from gRPC or a proxy, and gets a message here. If the service knows how long to wait before a retry,
the trailing metadata contains that too.
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
# gRPC limits headers to 8 KiB by default, and percent-encoding may triple these bytes.
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
    TrainingError: StatusCode.INTERNAL,  # no service raises it, but the table has every error
    CloudUnreachable: StatusCode.UNAVAILABLE,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
}
_ERROR_BY_NAME = {error.__name__: error for error in STATUS_CODES}


class _Unnamed(NamedTuple):
    """How the client presents a status that does not name one of this project's errors."""

    error: type[AlignedVQError]
    message: str


_ENGINE = "the service failed: its log says why"
_LOGIN = "the service refused this client: check its certificate or token"
_WRONG_SERVICE = "expected an alignedvq.v1 service, got another: check the address"

UNNAMED: dict[grpc.StatusCode, _Unnamed] = {
    StatusCode.CANCELLED: _Unnamed(
        CloudUnreachable, "the call was cancelled before the answer was complete: ask again"
    ),
    StatusCode.UNKNOWN: _Unnamed(EngineError, _ENGINE),
    StatusCode.INVALID_ARGUMENT: _Unnamed(InvalidInput, "the request was refused: send another"),
    StatusCode.DEADLINE_EXCEEDED: _Unnamed(
        DeadlineExceeded, "no answer within the deadline: allow more time or ask for fewer tokens"
    ),
    StatusCode.NOT_FOUND: _Unnamed(CloudUnreachable, _WRONG_SERVICE),
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
_WRONG_SERVICE_CODES = (StatusCode.UNIMPLEMENTED, StatusCode.NOT_FOUND)
_TOO_LARGE = _Unnamed(
    InvalidInput, "a message was larger than the limit: shorten the question or lower the rate"
)


class Status(NamedTuple):
    """The arguments of `grpc.aio`'s `context.abort`: `context.abort(*status)`."""

    code: grpc.StatusCode
    details: str
    trailing_metadata: tuple[tuple[str, str], ...]


@runtime_checkable
class _FinishedCall(Protocol):
    """The methods that errors of `grpc` and `grpc.aio` share beyond `grpc.RpcError`."""

    def code(self) -> grpc.StatusCode | None: ...

    def details(self) -> str | None: ...

    def trailing_metadata(self) -> object: ...


def status_of(error: BaseException) -> Status:
    """The status of a call that ends with an error: code, at most 1,000 bytes of text, metadata.

    A subclass is sent as its nearest ancestor in the table. Other exceptions are sent as
    EngineError with a fixed message, as theirs may contain a prompt or a path.
    """
    # Nearest class first, as subclasses stand beside their bases in the table.
    for ancestor in type(error).__mro__:
        if ancestor in STATUS_CODES:
            name, code = ancestor.__name__, STATUS_CODES[ancestor]
            return Status(
                code, _printable(str(error)), ((ERROR_KEY, name), *_retry_metadata(error))
            )
    return Status(STATUS_CODES[EngineError], _ENGINE, ((ERROR_KEY, EngineError.__name__),))


def error_from_rpc(rpc_error: grpc.RpcError) -> AlignedVQError:
    """The error for a failed call of `grpc` or `grpc.aio`; raise it `from` the given one.

    With a name in the trailing metadata it is that class with the service's message. Without, the
    code determines the class, and the message says what happened, what to do, and gRPC's details.
    An `Overloaded` also gets the wait from the metadata.
    """
    call: object = rpc_error  # the stub declares methods that a bare RpcError lacks
    if not isinstance(call, _FinishedCall):
        return _unnamed(UNNAMED[StatusCode.UNAVAILABLE], None, str(rpc_error))
    error = _error_of(call)
    if isinstance(error, Overloaded):
        error.retry_after_seconds = _retry_seconds(_value(call.trailing_metadata(), RETRY_KEY))
    if isinstance(error, CloudUnreachable):
        error.another_service = call.code() in _WRONG_SERVICE_CODES
    return error


def _error_of(call: _FinishedCall) -> AlignedVQError:
    details = _printable(call.details() or "")
    name = _value(call.trailing_metadata(), ERROR_KEY)
    if name in _ERROR_BY_NAME:
        return _ERROR_BY_NAME[name](details)
    code = call.code()
    # gRPC uses the code of overload for messages beyond its size limit, too.
    if code is StatusCode.RESOURCE_EXHAUSTED and "larger than max" in details:
        return _unnamed(_TOO_LARGE, code, details)
    return _unnamed(
        UNNAMED.get(code or StatusCode.UNKNOWN, UNNAMED[StatusCode.UNKNOWN]), code, details
    )


def _unnamed(row: _Unnamed, code: grpc.StatusCode | None, details: str) -> AlignedVQError:
    origin = ": ".join(part for part in (code.name if code else "", _printable(details)) if part)
    return row.error(f"{row.message} ({origin})" if origin else row.message)


def _value(metadata: object, key: str) -> str | None:
    # A tuple in `grpc`, `Metadata` in `grpc.aio`, None before the call has ended.
    for item in metadata if isinstance(metadata, (tuple, grpc.aio.Metadata)) else ():
        name, value = item
        if name == key and isinstance(value, str):
            return value
    return None


def _retry_metadata(error: BaseException) -> tuple[tuple[str, str], ...]:
    seconds = error.retry_after_seconds if isinstance(error, Overloaded) else None
    if seconds is None:
        return ()
    # Rounded up: a retry a fraction too early would be refused again.
    return ((RETRY_KEY, str(min(max(0, math.ceil(1e3 * seconds)), MAX_RETRY_MS))),)


def _retry_seconds(text: str | None) -> float | None:
    """Seconds from untrusted metadata: a number of milliseconds, capped at an hour, or None."""
    # Nine digits hold every valid value; a peer could send thousands.
    if text is None or not text.isascii() or not text.isdecimal() or len(text) > 9:
        return None
    return min(int(text), MAX_RETRY_MS) / 1e3


def _printable(text: str) -> str:
    """One line of printable text of at most 1,000 bytes in UTF-8, safe in headers and logs."""
    line = "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))
    encoded = line.encode("utf-8", "replace")
    if len(encoded) <= MAX_DETAILS_BYTES:
        return encoded.decode()
    # "ignore" drops a character that the cut has split.
    return encoded[: MAX_DETAILS_BYTES - 3].decode("utf-8", "ignore") + "..."
