"""Who may call at all: a key where one is set, and no web page that pretends to be this machine."""

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

KEYED = ("/v1/", "/metrics")
"""Paths that want the key: neither health nor the page's own files."""
GOODBYE_SECONDS = 1.0
"""At most, for telling a caller whose key was taken back while it was answered."""


class Guard:
    """Stands before the application.

    A page of another site can have its name resolve to 127.0.0.1 and so call what listens there;
    the `Host` header then still has that name.

    Args:
        app: what it lets requests through to.
        keys: that callers must give as `Authorization: Bearer KEY`, if any.
        loopback: whether only names of this machine are right in `Host`.
    """

    def __init__(self, app: ASGIApp, keys: Keys, loopback: bool) -> None:
        self._app = app
        self._keys = keys
        self._loopback = loopback
        self._running: dict[asyncio.Timeout, TokenHolder] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            return
        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if self._loopback and not (len(hosts) == 1 and names_this_machine(hosts[0])):
            await _WRONG_HOST.response()(scope, receive, send)
        elif not self._keys.wanted or not scope["path"].startswith(KEYED):
            await self._app(scope, receive, send)
        elif (holder := self._keys.holder(headers.get("authorization", ""))) is None:
            given = bool(headers.get("authorization", "").partition(" ")[2])
            await _wrong_key(given).response()(scope, receive, send)
        else:
            await self._while_known(holder, scope, receive, send)

    async def watch(self) -> None:
        """Look at the keys again and again, and end what those ask whose key was taken back."""
        await self._keys.watch(self._sweep)

    def _sweep(self) -> None:
        for limit, holder in self._running.items():
            if not self._keys.good(holder):
                with suppress(RuntimeError):  # it has just ended by itself
                    limit.reschedule(asyncio.get_running_loop().time())

    async def _while_known(
        self, holder: TokenHolder, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if self._keys.named:
            scope.setdefault("state", {})[CALLER] = holder
        begun: Message | None = None

        async def noting(message: Message) -> None:
            nonlocal begun
            begun = begun or message
            await send(message)

        try:
            async with asyncio.timeout(None) as limit:
                self._running[limit] = holder
                await self._app(scope, receive, noting)
        except TimeoutError:
            if not limit.expired():
                raise
            with suppress(TimeoutError):
                async with asyncio.timeout(GOODBYE_SECONDS):
                    await _goodbye(begun, scope, receive, send)
        finally:
            del self._running[limit]


async def _goodbye(begun: Message | None, scope: Scope, receive: Receive, send: Send) -> None:
    """An error in whatever form the response still allows; else it is not completed."""
    refusal = _wrong_key(given=True)
    if begun is None:
        await refusal.response()(scope, receive, send)
    elif Headers(raw=begun["headers"]).get("content-type", "").startswith("text/event-stream"):
        event = f"data: {json.dumps(refusal.body())}\n\n".encode()
        await send({"type": "http.response.body", "body": event, "more_body": False})


def _wrong_key(given: bool) -> Refusal:
    return Refusal(
        401,
        "expected this gateway's API key as `Authorization: Bearer KEY`, got "
        f"{'another' if given else 'none'}; ask its operator",
        code="invalid_api_key",
    )


_WRONG_HOST = Refusal(
    403,
    "expected a Host header that names this machine, got another; call the gateway as localhost or "
    "127.0.0.1",
    code="wrong_host",
)
