"""When certificates end: a metric, warnings beforehand, and a reason not to be ready afterwards."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import NamedTuple

from cryptography import x509

from cloud_server.access.identity import Identities
from cloud_server.certificates.tls import TlsFiles
from cloud_server.operations.metrics import Metrics

_log = logging.getLogger(__name__)

WARN_SECONDS = 14 * 86_400.0
AGAIN_SECONDS = 86_400.0
"""From one warning about a file to the next."""


class _Watched(NamedTuple):
    what: str
    """Of people's words: what ends."""
    setting: str
    """That names its file."""
    vital: bool
    """Is everybody refused once it has ended?"""
    ends: Callable[[], float | None]
    """Seconds since 1970; None: there is none, or it has no end."""


class Expiry:
    """Looks at what new connections depend on. The time of day is read at every look, so a clock
    that jumped and was set right again leaves no trace.

    Args:
        tls: the service's files; None: without TLS nothing ends.
        identities: know what is refused.
        clock: seconds since 1970.
    """

    def __init__(
        self, tls: TlsFiles | None, identities: Identities, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._warned: dict[str, tuple[float, float]] = {}
        self._watched: dict[str, _Watched] = {}
        if tls is None:
            return
        self._watched["server"] = _Watched(
            "certificate", "tls_certificate", True, lambda: _end(tls.served.certificate)
        )
        if tls.served.authorities:
            # One that is still good is enough: while they are changed there are an old and a new.
            self._watched["clients"] = _Watched(
                "client authority",
                "tls_clients",
                True,
                lambda: max(map(_end, tls.served.authorities), default=None),
            )
        self._watched["refused"] = _Watched(
            "list of refused certificates", "tls_refused", False, lambda: identities.refused.ends
        )

    def add_to(self, metrics: Metrics) -> None:
        """Give operators a gauge: seconds left, negative afterwards, not a number without an
        end."""
        metrics.gauges(
            "certificate_seconds_left",
            "Until the service's certificate, its clients' authority and its CRL end.",
            "certificate",
            {name: (lambda own=own: self._left(own)) for name, own in self._watched.items()},  # type: ignore[misc]
        )

    def trouble(self) -> str:
        """Why nobody new can come in; empty: for no such reason."""
        for own in self._watched.values():
            if own.vital and self._left(own) <= 0:
                return f"{own.what} expired {_shown(own)}; replace the file of {own.setting}"
        return ""

    def check(self) -> None:
        """Warn of what ends within 14 days or has ended: once a day, and once if it changes."""
        for name, own in self._watched.items():
            left, end, now = self._left(own), own.ends(), time.monotonic()
            if end is None or left > WARN_SECONDS:
                self._warned.pop(name, None)
                continue
            about, at = self._warned.get(name, (None, -math.inf))
            if about == end and now - at < AGAIN_SECONDS:
                continue
            self._warned[name] = (end, now)
            if left > 0:
                words = ("ends", _shown(own), f"in {left / 86_400:.1f} days")
            elif own.vital:
                words = ("expired", _shown(own), "and new clients are refused")
            else:
                words = ("expired", _shown(own), "and what it lists stays refused")
            _log.warning("the %s %s %s, %s; replace the file of %s", own.what, *words, own.setting)

    def _left(self, own: _Watched) -> float:
        end = own.ends()
        return math.nan if end is None else end - self._clock()


def _end(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _shown(own: _Watched) -> str:
    return f"{datetime.fromtimestamp(own.ends() or 0, UTC):%Y-%m-%d %H:%M} UTC"
