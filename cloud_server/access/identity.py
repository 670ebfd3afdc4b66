"""Who calls, and whether they still may: certificates and tokens, looked at again while serving."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

import grpc

from aligned_vq.errors import Unauthenticated
from cloud_server.access.peers import Caller, Peers
from cloud_server.certificates.client import ClientCertificate, client_certificate, pem_digest
from cloud_server.certificates.refused import RefusedCertificates, parse_refused
from cloud_server.certificates.tls import TlsFiles, tls_files
from cloud_server.config import CloudConfig
from protos.access.reread import RereadFile
from protos.access.tokens import bearer_token, holder_of, tokens_file

_log = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
LOOK_SECONDS = 1.0
"""From one look at the files to the next."""
STALE_SECONDS = 3.0
"""A call looks at the files itself where that was longer ago, as nobody else seems to."""
GOODBYE_SECONDS = 1.0
"""From the end of a caller's answers to that of its connections, so that it learns why."""
MAX_CERTIFICATES = 10_000
"""Remembered, so that each is parsed once."""

Context = grpc.aio.ServicerContext[Any, Any]
HangUp = Callable[[Iterable[str]], None]
"""Ends the connections of some peers, named as gRPC does; those that are gone already are none."""


_ANYBODY = Caller(ANONYMOUS)


def ignore(peers: Iterable[str]) -> None:
    """Leave connections to their age."""


class Identities:
    """Knows callers by certificate or token, and ends what those do whose credential was taken
    back. Used from the event loop only, but for `reread`.

    Args:
        config: which of them are asked for.
        tls: the service's files, where it has any; its authorities may be replaced, too.
        hang_up: told which connections to end.

    Raises:
        ConfigError: a file cannot be used.
    """

    def __init__(
        self, config: CloudConfig, tls: TlsFiles | None = None, hang_up: HangUp = ignore
    ) -> None:
        self.hang_up = hang_up
        self._certificates = config.tls_clients is not None
        self._tls = tls
        self._tokens = None if config.tokens is None else tokens_file(config.tokens)
        self._refused = self._refused_file(config)
        self._known: OrderedDict[str, ClientCertificate] = OrderedDict()
        lifetime = 1.2 * config.max_connection_seconds + config.connection_grace_seconds
        self._peers = Peers(lifetime)
        self._running: dict[object, tuple[Caller, Callable[[Unauthenticated], None]]] = {}
        self._first_authorities = self._authorities = tls.served.authorities if tls else ()
        self._led_from = self._first_authorities
        self._led_to: dict[str, bool] = {}
        self._rereading = threading.Lock()
        self._looked = time.monotonic()
        self._changed = False

    @property
    def refused(self) -> RefusedCertificates:
        """The certificates that are refused now."""
        return self._refused.value if self._refused else RefusedCertificates()

    def identify(self, context: Context) -> Caller:
        """Who calls: the certificate's common name, else the token's name, else `anonymous` where
        neither is asked for.

        Raises:
            Unauthenticated: one of them is asked for, and the call has none that is known here, or
                one that was taken back.
        """
        if not self._certificates and self._tokens is None:
            return _ANYBODY
        now, peer = time.monotonic(), context.peer()
        if now - self._looked > STALE_SECONDS:
            self.reread()
            self.sweep()
        find = self._by_certificate if self._certificates else self._by_token
        caller = find(context)
        if (why := self._taken_back(caller)) is not None:
            self._peers.forget(peer)
            self._hang_up_soon([peer])
            raise Unauthenticated(why)
        self._peers.note(peer, caller, now)
        return caller

    def certify(self, context: Context) -> Caller:
        """As `identify`, for calls that need no token: health and reflection."""
        return self.identify(context) if self._certificates else _ANYBODY

    def began(self, call: object, caller: Caller, end: Callable[[Unauthenticated], None]) -> None:
        """A call runs until `ended`; `end` is told if its caller is refused meanwhile."""
        if caller.key:
            self._running[call] = (caller, end)

    def ended(self, call: object) -> None:
        """The call is over, in whatever way."""
        self._running.pop(call, None)

    async def watch(self) -> None:
        """Look at the files again and again, and end what is refused, until cancelled."""
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            try:
                await asyncio.to_thread(self.reread)
                self.sweep()
            except Exception:  # noqa: BLE001 - a bug must not leave everybody in for ever
                _log.exception("looking at credentials again failed")
                await asyncio.sleep(LOOK_SECONDS)

    def reread(self) -> None:
        """Read the files again; `sweep` then acts on it. From any thread."""
        if not self._rereading.acquire(blocking=False):
            return  # somebody does
        try:
            changed = self._tokens is not None and self._tokens.refresh()
            if self._tls is not None:
                self._tls.refresh()
                if replaced := self._tls.served.authorities != self._authorities:
                    self._authorities = self._tls.served.authorities
                changed |= replaced
            else:
                replaced = False
            if self._refused is not None:
                changed |= self._refused.refresh(anew=replaced)
            self._changed |= changed
            self._looked = time.monotonic()
        finally:
            self._rereading.release()

    def sweep(self) -> None:
        """End the calls, and soon the connections, of callers that are refused now."""
        changed, self._changed = self._changed, False
        verdicts: dict[str, str | None] = {}
        for call, (caller, end) in list(self._running.items()):
            if caller.key not in verdicts:
                verdicts[caller.key] = self._taken_back(caller)
            why = verdicts[caller.key]
            if why is not None:
                self.ended(call)
                end(Unauthenticated(why))
        if changed or any(verdicts.values()):
            refused = self._peers.take(
                lambda caller: self._taken_back(caller) is not None, time.monotonic()
            )
            if refused:
                _log.info("%d connections end: their callers are refused now", len(refused))
                self._hang_up_soon(refused)

    def _hang_up_soon(self, peers: list[str]) -> None:
        """Their clients are to read why, first."""
        loop = asyncio.get_running_loop()
        loop.call_later(GOODBYE_SECONDS, lambda: self.hang_up(peers))

    def _by_token(self, context: Context) -> Caller:
        assert self._tokens is not None
        metadata: Any = context.invocation_metadata() or ()
        given = [str(value) for key, value in metadata if key == "authorization"]
        token = bearer_token(given[0]) if len(given) == 1 else None
        if token is None:
            raise Unauthenticated(
                "expected a token in the call's metadata, `authorization: Bearer TOKEN`, got none; "
                "give the client its token file"
            )
        holder = holder_of(token, self._tokens.value)
        if holder is None:
            raise Unauthenticated(_UNKNOWN_TOKEN)
        return Caller(holder.name, holder.digest, holder.limits)

    def _by_certificate(self, context: Context) -> Caller:
        auth: Any = context.auth_context()
        key = pem_digest(auth)
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = client_certificate(auth)
            if len(self._known) > MAX_CERTIFICATES:
                self._known.popitem(last=False)
        else:
            self._known.move_to_end(key)
        return Caller(found.name, key, certificate=found)

    def _taken_back(self, caller: Caller) -> str | None:
        """Why the caller's credential is refused now; None: it is good."""
        certificate = caller.certificate
        if certificate is None:
            known = self._tokens is None or caller.key in self._tokens.value
            return None if known else _UNKNOWN_TOKEN
        if certificate in self.refused:
            return _TAKEN_BACK
        if certificate.ends <= time.time():
            return "expected a client certificate that is valid now, got one that ended; renew it"
        return None if self._trusted(caller.key, certificate) else _OTHER_AUTHORITY

    def _trusted(self, key: str, certificate: ClientCertificate) -> bool:
        """Do signatures lead to it from an authority as they are now? At the handshake they did;
        what the first ones signed needs no second look."""
        now = self._tls.served.authorities if self._tls else ()
        if now == self._first_authorities:
            return True
        if now != self._led_from:
            self._led_from, self._led_to = now, {}
        if key not in self._led_to:
            if len(self._led_to) >= MAX_CERTIFICATES:
                self._led_to.clear()
            self._led_to[key] = certificate.led_by(now)
        return self._led_to[key]

    def _refused_file(self, config: CloudConfig) -> RereadFile[RefusedCertificates] | None:
        path = config.tls_refused
        if path is None:
            return None
        self._tls = tls = self._tls or tls_files(config)
        assert tls is not None  # CloudConfig wants tls_clients beside it

        def parse(data: bytes) -> RefusedCertificates:
            return parse_refused(data, path, tls.served.authorities)

        return RereadFile(path, "a CRL, or a YAML list, of refused certificates", parse)


_UNKNOWN_TOKEN = "expected a token known here, got another; ask the service's operator for one"
_OTHER_AUTHORITY = (
    "expected a client certificate of an authority that is trusted here, got one of another; ask "
    "the service's operator for a new one"
)
_TAKEN_BACK = (
    "expected a client certificate that is accepted here, got one that was taken back; ask the "
    "service's operator for another"
)
