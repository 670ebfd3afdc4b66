"""Authenticates callers by certificate or token, and ends the calls of revoked credentials."""

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
from protos.access.reloaded_file import ReloadedFile
from protos.access.tokens import bearer_token, holder_of, tokens_file

_log = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
RELOAD_SECONDS = 1.0
"""Between reloads of the files of credentials."""
STALE_SECONDS = 3.0
"""Age of the last reload after which a call reloads by itself, as the periodic task is stuck."""
CLOSE_DELAY_SECONDS = 1.0
"""From the end of a refused caller's calls to closing its connections, so that it can read why."""
MAX_CERTIFICATES = 10_000
"""Most parsed certificates to cache."""

Context = grpc.aio.ServicerContext[Any, Any]
CloseConnections = Callable[[Iterable[str]], None]
"""Closes the connections of these peers, as gRPC names them, if they are still open."""


_ANONYMOUS_CALLER = Caller(ANONYMOUS)


def leave_open(peers: Iterable[str]) -> None:
    """Do nothing: the connections end at their maximum age."""


class Identities:
    """Authenticates callers, and ends the calls of those whose credential is refused later, as the
    files of credentials are reloaded while serving. Used from the event loop only, but for
    `reload`.

    Args:
        config: whether certificates or tokens are required.
        tls: the service's TLS files, if any; their authorities may change while serving.
        close_connections: closes the connections of refused callers.

    Raises:
        ConfigError: a file is unusable.
    """

    def __init__(
        self,
        config: CloudConfig,
        tls: TlsFiles | None = None,
        close_connections: CloseConnections = leave_open,
    ) -> None:
        self.close_connections = close_connections
        self._certificate_required = config.tls_clients is not None
        self._tls = tls
        self._tokens = None if config.tokens is None else tokens_file(config.tokens)
        self._deny_list = self._open_deny_list(config)
        self._parsed_certificates: OrderedDict[str, ClientCertificate] = OrderedDict()
        # gRPC varies the maximum age by a tenth; the rest is a margin.
        lifetime = 1.2 * config.max_connection_seconds + config.connection_grace_seconds
        self._peers = Peers(lifetime)
        self._running: dict[object, tuple[Caller, Callable[[Unauthenticated], None]]] = {}
        self._initial_authorities = self._authorities = tls.current.authorities if tls else ()
        self._trust_authorities = self._initial_authorities
        self._trust_cache: dict[str, bool] = {}
        self._reloading = threading.Lock()
        self._reloaded_at = time.monotonic()
        self._credentials_changed = False

    @property
    def refused(self) -> RefusedCertificates:
        """The deny-list of client certificates."""
        return self._deny_list.value if self._deny_list else RefusedCertificates()

    def identify(self, context: Context) -> Caller:
        """The caller: by the certificate's common name if certificates are required, else by the
        token's name if tokens are required, else `anonymous`.

        Raises:
            Unauthenticated: the required credential is missing, unknown or refused.
        """
        if not self._certificate_required and self._tokens is None:
            return _ANONYMOUS_CALLER
        now, peer = time.monotonic(), context.peer()
        if now - self._reloaded_at > STALE_SECONDS:
            # Blocks the event loop, but only while the periodic task is stuck.
            self.reload()
            self.end_refused_calls()
        identify = self._by_certificate if self._certificate_required else self._by_token
        caller = identify(context)
        if (reason := self._refusal_reason(caller)) is not None:
            self._peers.remove(peer)
            self._close_connections_soon([peer])
            raise Unauthenticated(reason)
        self._peers.record(peer, caller, now)
        return caller

    def identify_by_certificate(self, context: Context) -> Caller:
        """As `identify`, for health checks and reflection, which need no token."""
        return self.identify(context) if self._certificate_required else _ANONYMOUS_CALLER

    def add_call(
        self, call: object, caller: Caller, cancel: Callable[[Unauthenticated], None]
    ) -> None:
        """Track a call until `remove_call`; `cancel` is called if its caller is refused before."""
        if caller.key:
            self._running[call] = (caller, cancel)

    def remove_call(self, call: object) -> None:
        """The call has ended, in whatever way."""
        self._running.pop(call, None)

    async def watch(self) -> None:
        """Reload the files and end refused calls periodically, until cancelled."""
        while True:
            await asyncio.sleep(RELOAD_SECONDS)
            try:
                await asyncio.to_thread(self.reload)
                self.end_refused_calls()
            except Exception:  # noqa: BLE001 - after a bug, revocation must keep working
                _log.exception("reloading the credentials failed")
                await asyncio.sleep(RELOAD_SECONDS)

    def reload(self) -> None:
        """Read the files again, from any thread. `end_refused_calls` then applies the changes."""
        # Non-blocking: calls on the event loop must not wait for a slow disk.
        if not self._reloading.acquire(blocking=False):
            return  # another thread is reloading
        try:
            changed = self._tokens is not None and self._tokens.reload()
            if self._tls is not None:
                self._tls.reload()
                if replaced := self._tls.current.authorities != self._authorities:
                    self._authorities = self._tls.current.authorities
                changed |= replaced
            else:
                replaced = False
            if self._deny_list is not None:
                # New authorities may make a CRL valid or invalid even if its file is unchanged.
                changed |= self._deny_list.reload(force=replaced)
            self._credentials_changed |= changed
            self._reloaded_at = time.monotonic()
        finally:
            self._reloading.release()

    def end_refused_calls(self) -> None:
        """End the calls, and shortly after the connections, of callers that are now refused."""
        # Cleared before the checks, so that a reload during them is not lost.
        changed, self._credentials_changed = self._credentials_changed, False
        refusal_reasons: dict[str, str | None] = {}
        # A copy, as cancelling removes calls. Callers are checked once each, not once per call.
        for call, (caller, cancel) in list(self._running.items()):
            if caller.key not in refusal_reasons:
                refusal_reasons[caller.key] = self._refusal_reason(caller)
            reason = refusal_reasons[caller.key]
            if reason is not None:
                self.remove_call(call)
                cancel(Unauthenticated(reason))
        # Idle connections have no calls above; they are checked only if something may have changed.
        if changed or any(refusal_reasons.values()):
            peers = self._peers.remove_refused(
                lambda caller: self._refusal_reason(caller) is not None, time.monotonic()
            )
            if peers:
                _log.info("closing %d connections of callers that are now refused", len(peers))
                self._close_connections_soon(peers)

    def _close_connections_soon(self, peers: list[str]) -> None:
        """Close connections once their clients have had time to read the reason."""
        loop = asyncio.get_running_loop()
        loop.call_later(CLOSE_DELAY_SECONDS, lambda: self.close_connections(peers))

    def _by_token(self, context: Context) -> Caller:
        assert self._tokens is not None
        metadata: Any = context.invocation_metadata() or ()
        # Two headers are refused: a proxy and this service might each trust another one.
        headers = [str(value) for key, value in metadata if key == "authorization"]
        token = bearer_token(headers[0]) if len(headers) == 1 else None
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
        # Parsed once for each certificate, not for each call.
        certificate = self._parsed_certificates.get(key)
        if certificate is None:
            certificate = self._parsed_certificates[key] = client_certificate(auth)
            if len(self._parsed_certificates) > MAX_CERTIFICATES:
                self._parsed_certificates.popitem(last=False)
        else:
            self._parsed_certificates.move_to_end(key)
        return Caller(certificate.name, key, certificate=certificate)

    def _refusal_reason(self, caller: Caller) -> str | None:
        """Why the caller's credential is refused now; None if it is valid."""
        certificate = caller.certificate
        if certificate is None:
            registered = self._tokens is None or caller.key in self._tokens.value
            return None if registered else _UNKNOWN_TOKEN
        if certificate in self.refused:
            return _ON_DENY_LIST
        if certificate.expires_at <= time.time():
            return "expected a client certificate that is valid now, got an expired one; renew it"
        return None if self._trusted(caller.key, certificate) else _UNTRUSTED_AUTHORITY

    def _trusted(self, key: str, certificate: ClientCertificate) -> bool:
        """Whether one of the current authorities issued the certificate.

        The handshake checked that against the authorities of that time, so while they are those of
        the start there is nothing to check. Results are cached per set of authorities.
        """
        current = self._tls.current.authorities if self._tls else ()
        if current == self._initial_authorities:
            return True
        if current != self._trust_authorities:
            self._trust_authorities, self._trust_cache = current, {}
        if key not in self._trust_cache:
            if len(self._trust_cache) >= MAX_CERTIFICATES:
                self._trust_cache.clear()
            self._trust_cache[key] = certificate.is_issued_under(current)
        return self._trust_cache[key]

    def _open_deny_list(self, config: CloudConfig) -> ReloadedFile[RefusedCertificates] | None:
        path = config.tls_refused
        if path is None:
            return None
        self._tls = tls = self._tls or tls_files(config)
        assert tls is not None  # CloudConfig requires tls_clients with tls_refused

        def parse(data: bytes) -> RefusedCertificates:
            return parse_refused(data, path, tls.current.authorities)

        return ReloadedFile(path, "a CRL, or a YAML list, of refused certificates", parse)


_UNKNOWN_TOKEN = (
    "expected a token that is registered here, got another; ask the service's operator for one"
)
_UNTRUSTED_AUTHORITY = (
    "expected a client certificate of an authority that is trusted here, got one of another "
    "authority; ask the service's operator for a new one"
)
_ON_DENY_LIST = (
    "expected a client certificate that is accepted here, got one that is on the deny-list; ask "
    "the service's operator for another"
)
