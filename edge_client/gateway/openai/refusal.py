"""What OpenAI's clients are told when a request is not answered: a status and an error."""

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
"""Where nobody knows better."""
_FAILED = "the gateway failed on this request; its log says where"


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
"""By our errors. `Unauthenticated` is about the gateway: to its callers 401 would be misleading."""


class Refusal(Exception):
    """A request that is not answered.

    Args:
        status: HTTP status.
        words: what was expected, what came, and what to do.
        param: the field of the request that is wrong, as in `messages[0].content`.
        code: a word for programs.
        type: OpenAI's coarser word.
        retry_seconds: when to try again.
    """

    def __init__(
        self,
        status: int,
        words: str,
        param: str | None = None,
        code: str | None = "invalid_value",
        type: str = INVALID,
        retry_seconds: float | None = None,
    ) -> None:
        super().__init__(words)
        self.status = status
        self.param = param
        self.code = code
        self.type = type
        self.retry_seconds = retry_seconds

    @classmethod
    def of(cls, error: Exception, param: str | None = None) -> Refusal:
        """What to tell of any error; of one that is not ours none of its words."""
        if isinstance(error, Refusal):
            return error
        for ancestor in type(error).__mro__:
            if row := STATUSES.get(ancestor):
                words, retry = str(error), None
                if row.status in (429, 503):
                    asked = error.retry_after_seconds if isinstance(error, Overloaded) else None
                    retry = asked or RETRY_SECONDS
                if row.status != 400:
                    param = None
                elif param is None:
                    param = "messages"
                return cls(row.status, words, param, row.code, row.type, retry)
        return cls(500, _FAILED, None, "internal_error", SERVER)

    def body(self) -> dict[str, Any]:
        """The JSON that says so."""
        own = {"message": str(self), "type": self.type, "param": self.param, "code": self.code}
        return {"error": own}

    def response(self) -> JSONResponse:
        """The whole response."""
        headers = {}
        if self.retry_seconds is not None:
            headers["Retry-After"] = str(math.ceil(self.retry_seconds))
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return JSONResponse(self.body(), self.status, headers)
