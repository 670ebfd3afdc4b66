"""Access control in front of the application: the Host header and API keys."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from edge_client.gateway.access.keys import CALLER, Keys
from edge_client.gateway.openai.refusal import Refusal
from protos.access.tokens import TokenHolder
from protos.address import names_this_machine

PROTECTED_PATHS = ("/v1/", "/metrics")
"""Prefixes of paths that require a key; health and the files of the page do not."""
FAREWELL_SECONDS = 1.0
"""Time limit for the last message to a caller whose key was revoked during its request."""


class Guard:
    """ASGI middleware that rejects requests with a foreign Host header or without a valid key.

    The Host check stops DNS rebinding: another site's name may resolve to 127.0.0.1, so that its
    pages reach this server, but their `Host` header still carries that name.

    Args:
        app: the application behind it.
        keys: keys that callers must send as `Authorization: Bearer KEY`, if any.
        loopback: whether `Host` must name this machine.
    """

    def __init__(self, app: ASGIApp, keys: Keys, loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._loopback = loopback
        self._running: dict[asyncio.Timeout, TokenHolder] = {}
        """Requests in progress: expiring the timeout cancels the request."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or respond with an error."""
        if scope["type"] != "http":
            return  # the application has no WebSockets and no lifespan events
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        # Several Host headers are ambiguous, and so count as wrong.
        if self._loopback and not (len(hosts) == 1 and names_this_machine(hosts[0])):
            await _WRONG_HOST.response()(scope, receive, send)
        elif not self._keys.required or not scope["path"].startswith(PROTECTED_PATHS):
            await self._app(scope, receive, send)
        elif (holder := self._keys.holder(headers.get("authorization", ""))) is None:
            has_key = bool(headers.get("authorization", "").partition(" ")[2])
            await _wrong_key(has_key).response()(scope, receive, send)
        else:
            await self._run_while_valid(holder, scope, receive, send)

    async def watch(self) -> None:
        """Watch the file of keys, and cancel requests whose key was revoked."""
        await self._keys.watch(self._cancel_revoked)

    def _cancel_revoked(self) -> None:
        for timeout, holder in self._running.items():
            if not self._keys.is_valid(holder):
                with suppress(RuntimeError):  # the request has just ended
                    timeout.reschedule(asyncio.get_running_loop().time())

    async def _run_while_valid(
        self, holder: TokenHolder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._keys.per_caller:
            scope.setdefault("state", {})[CALLER] = holder
        response_start: Message | None = None

        async def recording_send(message: Message) -> None:
            nonlocal response_start
            response_start = response_start or message
            await send(message)

        try:
            async with asyncio.timeout(None) as timeout:
                self._running[timeout] = holder
                await self._app(scope, receive, recording_send)
        except TimeoutError:
            if not timeout.expired():  # raised by the application, not by `_cancel_revoked`
                raise
            with suppress(TimeoutError):
                async with asyncio.timeout(FAREWELL_SECONDS):
                    await _send_revoked(response_start, scope, receive, send)
        finally:
            del self._running[timeout]


async def _send_revoked(
    response_start: Message | None, scope: Scope, receive: Receive, send: Send
) -> None:
    """Send an error: as the response, or as an event of a stream; any other response that has
    begun stays incomplete."""
    refusal = _wrong_key(has_key=True)
    if response_start is None:
        await refusal.response()(scope, receive, send)
        return
    content_type = Headers(raw=response_start["headers"]).get("content-type", "")
    if content_type.startswith("text/event-stream"):
        event = f"data: {json.dumps(refusal.body())}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": False})


def _wrong_key(has_key: bool) -> Refusal:
    return Refusal(
        401,
        "expected this gateway's API key as `Authorization: Bearer KEY`, got "
        f"{'another' if has_key else 'none'}; ask its operator",
        code="invalid_api_key",
    )


_WRONG_HOST = Refusal(
    403,
    "expected a Host header that names this machine, got another; call the gateway as localhost or "
    "127.0.0.1",
    code="wrong_host",
)
