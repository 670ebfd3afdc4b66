"""Errors in the format of OpenAI's API: an HTTP status and a JSON body."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse

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
    Unauthenticated,
)

INVALID = "invalid_request_error"
SERVER = "server_error"
RETRY_SECONDS = 1
"""Value of Retry-After if the error names none."""
_FAILED = "the gateway failed on this request; its log has the details"


class _Row(NamedTuple):
    status: int
    type: str
    code: str


STATUSES: dict[type[AlignedVQError], _Row] = {
    AlignedVQError: _Row(500, SERVER, "internal_error"),
    ConfigError: _Row(500, SERVER, "misconfigured"),
    InvalidInput: _Row(400, INVALID, "invalid_value"),
    ImageNotHeld: _Row(502, SERVER, "image_not_held"),
    ManifestMismatch: _Row(502, SERVER, "bundle_mismatch"),
    CorruptPayload: _Row(502, SERVER, "corrupt_payload"),
    Overloaded: _Row(503, SERVER, "overloaded"),
    QuotaExceeded: _Row(429, "rate_limit_error", "rate_limit_exceeded"),
    EngineError: _Row(502, SERVER, "engine_failed"),
    Unauthenticated: _Row(502, SERVER, "gateway_not_known_to_cloud"),
    CloudUnreachable: _Row(503, SERVER, "cloud_unreachable"),
    DeadlineExceeded: _Row(504, SERVER, "timeout"),
}
"""Responses by error class. `Unauthenticated` is 502, not 401: the cloud rejected the gateway's
credentials, not the caller's."""


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        message: what was expected, what came, and what to do.
        param: path of the invalid field, such as `messages[0].content`.
        code: machine-readable error code.
        type: OpenAI's category of errors.
        retry_seconds: value of Retry-After.
    """

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = "invalid_value",
        type: str = INVALID,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.type = type
        self.retry_seconds = retry_seconds

    @classmethod
    def of(cls, error: Exception, param: str | None = None) -> Refusal:
        """The refusal for any error. The message of an unexpected error stays in the log."""
        if isinstance(error, Refusal):
            return error
        # The most specific class that has a row, so that new subclasses need none.
        for ancestor in type(error).__mro__:
            if row := STATUSES.get(ancestor):
                retry_seconds: float | None = None
                if row.status in (429, 503):
                    if isinstance(error, Overloaded):
                        retry_seconds = error.retry_after_seconds
                    retry_seconds = retry_seconds or RETRY_SECONDS
                if row.status != 400:
                    param = None
                elif param is None:
                    param = "messages"
                return cls(row.status, str(error), param, row.code, row.type, retry_seconds)
        return cls(500, _FAILED, None, "internal_error", SERVER)

    def body(self) -> dict[str, Any]:
        """The JSON body of the response."""
        error = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": error}

    def response(self) -> JSONResponse:
        """The response, with headers."""
        headers = {}
        if self.retry_seconds is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_seconds))  # whole seconds by HTTP
        if self.status == 401:  # HTTP requires the header with this status
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)
