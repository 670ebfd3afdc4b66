"""Watches when certificates expire: a metric, early warnings, and unreadiness afterwards."""

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
REPEAT_SECONDS = 86_400.0
"""Between warnings about the same file."""


class _Watched(NamedTuple):
    what: str
    """What expires, for people."""
    setting: str
    """Option that names the file."""
    vital: bool
    """Whether no client can connect after the expiry."""
    expires_at: Callable[[], float | None]
    """When it expires, in seconds since 1970; None if it is absent or never expires."""


class Expiry:
    """Watches the certificates that new connections depend on.

    Nothing is remembered but warnings, so a clock that jumped and was corrected has no effect.

    Args:
        tls: the service's files; None without TLS, where nothing expires.
        identities: holds the deny-list.
        clock: returns seconds since 1970.
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
            "certificate", "tls_certificate", True, lambda: _expires_at(tls.current.certificate)
        )
        if tls.current.authorities:
            # One valid authority is enough: during a rotation the file holds an old and a new one.
            self._watched["clients"] = _Watched(
                "client authority",
                "tls_clients",
                True,
                lambda: max(map(_expires_at, tls.current.authorities), default=None),
            )
        self._watched["refused"] = _Watched(
            "list of refused certificates",
            "tls_refused",
            False,
            lambda: identities.refused.next_update,
        )

    def register_gauges(self, metrics: Metrics) -> None:
        """Register the gauge of seconds left: negative after the expiry, NaN without one."""
        metrics.gauges(
            "certificate_seconds_left",
            "Seconds until the service's certificate, its clients' authority or its CRL expires.",
            "certificate",
            {
                # A default, as a closure would use the last value of the loop.
                name: (lambda watched=watched: self._seconds_left(watched))  # type: ignore[misc]
                for name, watched in self._watched.items()
            },
        )

    def unready_reason(self) -> str:
        """Which expired certificate keeps clients from connecting; empty if none does."""
        for watched in self._watched.values():
            if watched.vital and self._seconds_left(watched) <= 0:
                date = _date(watched)
                return f"{watched.what} expired {date}; replace the file of {watched.setting}"
        return ""

    def check(self) -> None:
        """Warn of what expires within 14 days or has expired: daily, and once if that changes."""
        for name, watched in self._watched.items():
            # Warnings repeat by the monotonic clock: the wall clock may jump.
            left, expiry, now = self._seconds_left(watched), watched.expires_at(), time.monotonic()
            if expiry is None or left > WARN_SECONDS:
                self._warned.pop(name, None)
                continue
            warned_expiry, warned_at = self._warned.get(name, (None, -math.inf))
            # A replaced file has another expiry, and is worth a new warning at once.
            if warned_expiry == expiry and now - warned_at < REPEAT_SECONDS:
                continue
            self._warned[name] = (expiry, now)
            if left > 0:
                details = ("expires", _date(watched), f"in {left / 86_400:.1f} days")
            elif watched.vital:
                details = ("expired", _date(watched), "and new clients are refused")
            else:
                details = ("expired", _date(watched), "and its certificates stay refused")
            _log.warning(
                "the %s %s %s, %s; replace the file of %s",
                watched.what,
                *details,
                watched.setting,
            )

    def _seconds_left(self, watched: _Watched) -> float:
        expiry = watched.expires_at()
        return math.nan if expiry is None else expiry - self._clock()


def _expires_at(certificate: x509.Certificate) -> float:
    return certificate.not_valid_after_utc.timestamp()


def _date(watched: _Watched) -> str:
    return f"{datetime.fromtimestamp(watched.expires_at() or 0, UTC):%Y-%m-%d %H:%M} UTC"
