"""Who calls, and may they come in now? Identity, admission and quotas, apart from answering."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import grpc

from aligned_vq.errors import CloudUnreachable, Overloaded, Unauthenticated
from cloud_server.config import CloudConfig
from cloud_server.quota import Quotas
from cloud_server.tokens import is_name, read_tokens, token_name

_log = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
CUT_OFF_SECONDS = 5.0
"""At most, for telling those whose answers a shutdown cuts off."""

Context = grpc.aio.ServicerContext[Any, Any]


class Gate:
    """Every call passes here first. Used from the event loop only.

    Args:
        config: limits, and who may ask.

    Raises:
        ConfigError: the file of tokens cannot be used.
    """

    def __init__(self, config: CloudConfig) -> None:
        self._max_in_flight = config.max_in_flight
        self._certificates = config.tls_clients is not None
        self._tokens = read_tokens(config.tokens) if config.tokens is not None else None
        self._quotas = Quotas(config.questions_per_second, config.burst, config.questions_at_once)
        self._visits: set[Visit] = set()
        self._empty = asyncio.Event()
        self._empty.set()
        self.in_flight = 0
        """Questions being answered."""
        self.draining = False

    def identity(self, context: Context) -> str:
        """Who calls: the certificate's common name, else the token's name, else `anonymous` where
        neither is asked for.

        Raises:
            Unauthenticated: one of them is asked for, and the call has none that is known here.
        """
        if self._certificates:
            return _common_name(context.auth_context())
        if self._tokens is not None:
            return token_name(context.invocation_metadata() or (), self._tokens)
        return ANONYMOUS

    def arrive(self) -> Visit:
        """A question came; `Visit.leave` must follow."""
        visit = Visit(self)
        self._visits.add(visit)
        self._empty.clear()
        return visit

    async def drain(self, seconds: float) -> None:
        """Refuse new questions and wait, at most `seconds`, for those that came before."""
        self.draining = True
        try:
            async with asyncio.timeout(seconds):
                await self._empty.wait()
        except TimeoutError:
            _log.warning("%d questions are cut off after %g s", len(self._visits), seconds)
            for visit in self._visits:
                visit.end()
            with suppress(TimeoutError):
                async with asyncio.timeout(CUT_OFF_SECONDS):
                    await self._empty.wait()

    def _admit(self, context: Context) -> str:
        if self.draining:
            raise CloudUnreachable(
                "the service is shutting down; ask again, another replica serves"
            )
        identity = self.identity(context)  # first: strangers take nobody's place
        if self.in_flight >= self._max_in_flight:
            raise Overloaded(
                f"expected at most {self._max_in_flight} questions in flight, got one more; "
                "try again in a moment"
            )
        self._quotas.enter(identity)
        self.in_flight += 1
        return identity

    def _left(self, visit: Visit) -> None:
        if visit.identity is not None:
            self.in_flight -= 1
            self._quotas.leave(visit.identity)
        self._visits.discard(visit)
        if not self._visits:
            self._empty.set()


class Visit:
    """One question, from its arrival until it was answered or refused."""

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self.identity: str | None = None
        """Whose question it is; None until it is admitted."""
        self._limit: asyncio.Timeout | None = None

    def admit(self, context: Context) -> str:
        """The identity of the caller, who has a place from now on.

        Raises:
            CloudUnreachable: the service is shutting down.
            Unauthenticated: see `Gate.identity`.
            Overloaded: all places are taken, or (QuotaExceeded) all of this identity.
        """
        self.identity = self._gate._admit(context)
        return self.identity

    def leave(self) -> None:
        """The question ended, in whatever way."""
        self._gate._left(self)

    def time(self, seconds: float) -> asyncio.Timeout:
        """Within it the question is answered; raises TimeoutError when the time or, as the service
        shuts down, the drain is over."""
        self._limit = asyncio.timeout(seconds)
        return self._limit

    def end(self) -> None:
        """Its time is over now."""
        if self._limit is not None:
            self._limit.reschedule(asyncio.get_running_loop().time())


def _common_name(auth_context: Mapping[str, Any]) -> str:
    """Of a certificate that the handshake has checked against the authority."""
    for value in auth_context.get("x509_common_name", ()):
        try:
            name = bytes(value).decode()
        except UnicodeDecodeError:
            continue
        if is_name(name):
            return name
    raise Unauthenticated(
        "expected a client certificate with a common name, got none; make one with "
        "`cloud-server certs` or ask the service's operator"
    )
