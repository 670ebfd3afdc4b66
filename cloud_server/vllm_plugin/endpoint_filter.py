"""The doors of an engine replica that stay open: all others of vLLM's server are shut.

Its further endpoints take pictures, text prompts, tensors that no one checks, or orders such as
`/pause`; a front tier needs none of them.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[MutableMapping[str, Any], Receive, Send], Awaitable[None]]

GENERATE = "/inference/v1/generate"
OPEN = frozenset({GENERATE, "/health", "/metrics", "/version"})
FIELDS = frozenset(
    {"request_id", "token_ids", "content_parts", "sampling_params", "stream", "cache_salt"}
)
"""Of a question. `features`, among the others, would go to a worker unchecked."""
MAX_BODY_BYTES = 2**20


class OnlyIndices:
    """ASGI middleware that lets health checks and questions with indices through."""

    def __init__(self, app: App) -> None:
        self._app = app

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request, or say why not: 404 for a shut door, 400 for what is no question."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http" or scope["path"] not in OPEN:
            await _say(scope, send, 404, f"expected one of {', '.join(sorted(OPEN))}")
        elif scope["path"] != GENERATE:
            await self._app(scope, receive, send)
        else:
            body = await _body(receive)
            if fault := _fault(body):
                await _say(scope, send, 400, fault)
                return
            pending = [{"type": "http.request", "body": body, "more_body": False}]

            async def replay() -> Message:
                return pending.pop() if pending else await receive()

            await self._app(scope, replay, send)


def _fault(body: bytes) -> str | None:
    """What is wrong with a question, if anything."""
    try:
        asked = json.loads(body)
    except ValueError:
        asked = None
    if len(body) > MAX_BODY_BYTES or not isinstance(asked, dict):
        return f"expected a JSON object of at most {MAX_BODY_BYTES} bytes"
    if unknown := sorted(asked.keys() - FIELDS):
        return f"expected only {', '.join(sorted(FIELDS))}, got {', '.join(unknown)[:200]}"
    return None


async def _body(receive: Receive) -> bytes:
    """The whole body, or a little more than is allowed of it."""
    parts: list[bytes] = []
    size = 0
    while size <= MAX_BODY_BYTES:
        message = await receive()
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if not message.get("more_body"):
            break
    return b"".join(parts)


async def _say(scope: MutableMapping[str, Any], send: Send, status: int, words: str) -> None:
    if scope["type"] != "http":
        await send({"type": "websocket.close", "code": 1008})
        return
    body = json.dumps({"error": {"message": words, "code": status}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
