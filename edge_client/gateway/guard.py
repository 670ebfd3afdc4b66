"""Who may call at all: a key where one is set, and no web page that pretends to be this machine."""

from __future__ import annotations

import hashlib
import hmac

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from edge_client.gateway.refusal import Refusal
from protos.address import host_of, is_loopback

KEYED = ("/v1/", "/metrics")
"""Paths that want the key: neither health nor the page's own files."""


class Guard:
    """Stands before the application.

    A page of another site can have its name resolve to 127.0.0.1 and so call what listens there;
    the `Host` header then still has that name.

    Args:
        app: what it lets requests through to.
        key: that callers must give as `Authorization: Bearer KEY`; None: none is wanted.
        loopback: whether only names of this machine are right in `Host`.
    """

    def __init__(self, app: ASGIApp, key: str | None, loopback: bool) -> None:
        self._app = app
        self._key = _digest(key.encode()) if key is not None else None
        self._loopback = loopback

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer it with an error."""
        if scope["type"] != "http":
            return
        refusal = self._refusal(Headers(scope=scope), scope["path"])
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await refusal.response()(scope, receive, send)

    def _refusal(self, headers: Headers, path: str) -> Refusal | None:
        hosts = headers.getlist("host")
        if self._loopback and not (len(hosts) == 1 and is_loopback(host_of(hosts[0]))):
            return Refusal(
                403,
                "expected a Host header that names this machine, got another; call the gateway as "
                "localhost or 127.0.0.1",
                code="wrong_host",
            )
        if self._key is None or not path.startswith(KEYED):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        known = scheme.lower() == "bearer" and hmac.compare_digest(
            _digest(given.strip().encode("latin-1")), self._key
        )
        if known:
            return None
        return Refusal(
            401,
            "expected this gateway's API key as `Authorization: Bearer KEY`, got "
            f"{'another' if given else 'none'}; ask its operator",
            code="invalid_api_key",
        )


def _digest(secret: bytes) -> bytes:
    return hashlib.sha256(secret).digest()
