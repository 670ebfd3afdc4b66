"""Who calls, and may they come in now? Identity, admission and quotas, apart from answering."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import logging
import re
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import yaml

from aligned_vq.errors import CloudUnreachable, ConfigError, Overloaded, Unauthenticated
from cloud_server.config import CloudConfig
from cloud_server.quota import Quotas

_log = logging.getLogger(__name__)

ANONYMOUS = "anonymous"
CUT_OFF_SECONDS = 5.0
"""At most, for telling those whose answers a shutdown cuts off."""
_BEARER = "bearer "

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
            return _token_name(context.invocation_metadata() or (), self._tokens)
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


def read_tokens(path: Path) -> dict[str, str]:
    """Names by the SHA-256 of their tokens, as lower-case hex digits.

    Raises:
        ConfigError: the file is not a YAML mapping of names to such digests.
    """
    try:
        # Names and digests may look like numbers to YAML; all of them are text.
        found = yaml.load(path.read_text(), Loader=yaml.BaseLoader)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = error.strerror if isinstance(error, OSError) else "something else"
        raise ConfigError(
            f"{path}: expected a YAML file of tokens, got: {reason}; write a line `name: SHA-256` "
            "for each client"
        ) from error
    if not isinstance(found, dict) or not found:
        raise ConfigError(
            f"{path}: expected a mapping of names to digests, got something else; write a line "
            "`name: SHA-256` for each client"
        )
    names: dict[str, str] = {}
    for name, digest in found.items():
        if not isinstance(digest, str) or not re.fullmatch("[0-9a-fA-F]{64}", digest):
            raise ConfigError(
                f"{path}: expected the SHA-256 of the token of {name!r} as 64 hex digits, got "
                "something else; write what `printf %s TOKEN | sha256sum` prints"
            )
        if not _is_name(name):
            raise ConfigError(
                f"{path}: expected names of printable text, got {name!r}; choose another"
            )
        if digest.lower() in names:
            raise ConfigError(
                f"{path}: expected one token for each name, got the same for {name!r} and "
                f"{names[digest.lower()]!r}; draw another"
            )
        names[digest.lower()] = name
    return names


def _common_name(auth_context: Mapping[str, Any]) -> str:
    """Of a certificate that the handshake has checked against the authority."""
    for value in auth_context.get("x509_common_name", ()):
        try:
            name = bytes(value).decode()
        except UnicodeDecodeError:
            continue
        if _is_name(name):
            return name
    raise Unauthenticated(
        "expected a client certificate with a common name, got none; make one with "
        "`cloud-server certs` or ask the service's operator"
    )


def _token_name(metadata: Any, tokens: Mapping[str, str]) -> str:
    given = [value for key, value in metadata if key == "authorization"]
    if len(given) != 1 or not str(given[0]).lower().startswith(_BEARER):
        raise Unauthenticated(
            "expected a token in the call's metadata, `authorization: Bearer TOKEN`, got none; "
            "give the client its token file"
        )
    token = str(given[0])[len(_BEARER) :].strip()
    digest = hashlib.sha256(token.encode("utf-8", "surrogateescape")).hexdigest()
    found = None
    for known, name in tokens.items():  # all of them: the time taken tells nothing
        if hmac.compare_digest(known, digest):
            found = name
    if found is None:
        raise Unauthenticated(
            "expected a token known here, got another; ask the service's operator for one"
        )
    return found


def _is_name(name: object) -> bool:
    """Fit for a log line."""
    return isinstance(name, str) and 0 < len(name) <= 200 and name.isprintable()
