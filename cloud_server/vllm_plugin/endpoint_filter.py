"""The allow-list of a replica's HTTP endpoints.

vLLM's other endpoints accept images, text prompts, unchecked tensors, or commands such as `/pause`.
A front tier needs none of them.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

GENERATE = "/inference/v1/generate"
ALLOWED_PATHS = frozenset({GENERATE, "/health", "/metrics", "/version"})
ALLOWED_FIELDS = frozenset(
    {"request_id", "token_ids", "content_parts", "sampling_params", "stream", "cache_salt"}
)
"""Allowed fields of a request. Of the others, `features` would reach a worker unchecked."""
MAX_BODY_BYTES = 2**20


class EndpointFilter:
    """ASGI middleware that passes health checks, metrics and requests with indices only."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Pass one request on, or refuse it: 404 for other paths, 400 for malformed requests."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] not in ALLOWED_PATHS:
            await _refuse(scope, send, 404, f"expected one of {', '.join(sorted(ALLOWED_PATHS))}")
        elif scope["path"] != GENERATE:
            await self._app(scope, receive, send)
        else:
            body = await _read_body(receive)
            if reason := _refusal_reason(body):
                await _refuse(scope, send, 400, reason)
                return
            # The body has been consumed for the check, so replay it to the application.
            pending = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return pending.pop() if pending else await receive()

            await self._app(scope, replay, send)


def _refusal_reason(body: bytes) -> str | None:
    """Why a request body is refused; None if it is not."""
    fields = None
    if len(body) <= MAX_BODY_BYTES:  # parsing a longer one would hold up the event loop
        # Deep nesting exhausts the parser's stack.
        with contextlib.suppress(ValueError, RecursionError):
            fields = json.loads(body)
    if not isinstance(fields, dict):
        return f"expected a JSON object of at most {MAX_BODY_BYTES} bytes"
    if unexpected := sorted(fields.keys() - ALLOWED_FIELDS):
        return (
            f"expected only {', '.join(sorted(ALLOWED_FIELDS))}, got {', '.join(unexpected)[:200]}"
        )
    return None


async def _read_body(receive: Receive) -> bytes:
    """The whole body, or at least its first `MAX_BODY_BYTES` + 1 bytes."""
    parts: list[bytes] = []
    size = 0
    # One byte beyond the limit is enough to refuse; the rest is not read.
    while size <= MAX_BODY_BYTES:
        event = await receive()
        parts.append(event.get("body", b""))
        size += len(parts[-1])
        if not event.get("more_body"):
            break
    return b"".join(parts)


async def _refuse(scope: MutableMapping[str, Any], send: Send, status: int, message: str) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})  # policy violation (RFC 6455, 7.4.1)
        return
    body = json.dumps({"error": {"message": message, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
