"""Certificates that end: figures, warnings and readiness, on clocks that the test moves."""

from __future__ import annotations

import logging
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from cloud_server.access.expiry import REPEAT_SECONDS, Expiry
from cloud_server.access.identity import Identities
from cloud_server.certificates import issuing
from cloud_server.certificates.revocation import revoke
from cloud_server.certificates.tls import TlsFiles
from cloud_server.config import CloudConfig
from cloud_server.operations.metrics import Metrics

DAY = 86_400.0


class Service:
    """A service's files whose certificate ends in so many days, and a time of day."""

    def __init__(self, folder: Path, days: float) -> None:
        issuing.make(folder, None, ("edge-1",))
        self.folder = folder
        self.renew(days)
        self.tls = TlsFiles(*(folder / f"{n}.pem" for n in ("server", "server-key", "ca")))
        config = CloudConfig(
            folder,
            "model",
            tls_certificate=folder / "server.pem",
            tls_key=folder / "server-key.pem",
            tls_clients=folder / "ca.pem",
        )
        self.now = time.time()
        self.identities = Identities(config, self.tls)
        self.expiry = Expiry(self.tls, self.identities, lambda: self.now)

    def renew(self, days: float) -> None:
        end = datetime.now(UTC) + timedelta(days=days)
        hosts = [x509.DNSName("localhost")]
        pair = issuing.issue(issuing.open_authority(self.folder), "localhost", end, hosts)
        (self.folder / "server.pem").write_bytes(pair.certificate_pem())
        (self.folder / "server-key.pem").write_bytes(pair.key_pem())


def test_the_end_is_told_once_a_day(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Service(tmp_path, days=20)
    uptime = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: uptime)
    service.expiry.check()
    assert not caplog.messages
    service.now += 7 * DAY
    for _ in range(5):
        service.expiry.check()
    (warning,) = caplog.messages
    assert "the certificate expires" in warning
    assert "in 13.0 days; replace the file of tls_certificate" in warning
    service.now -= 1000 * DAY  # a clock that jumps and is set right again
    service.expiry.check()
    service.now += 1000 * DAY
    caplog.clear()
    service.expiry.check()
    uptime += REPEAT_SECONDS + 1
    service.expiry.check()
    service.expiry.check()
    assert len(caplog.messages) == 2
    assert not service.expiry.unready_reason()


def test_an_end_is_a_reason_until_the_file_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(tmp_path, days=20)
    metrics = Metrics()
    service.expiry.register_gauges(metrics)
    assert 'avq_certificate_seconds_left{certificate="refused"} NaN' in metrics.text().decode()
    service.now += 21 * DAY
    trouble = service.expiry.unready_reason()
    assert trouble.startswith("certificate expired 20")
    assert trouble.endswith("UTC; replace the file of tls_certificate")
    service.expiry.check()
    assert "and new clients are refused" in caplog.text
    assert -1.1 * DAY < left(metrics, "server") < -0.9 * DAY
    service.renew(60)
    service.identities.reload()
    assert not service.expiry.unready_reason()
    assert 38 * DAY < left(metrics, "server") < 40 * DAY
    assert left(metrics, "clients") > 3000 * DAY
    caplog.clear()
    service.expiry.check()
    assert not caplog.messages
    service.now += 4000 * DAY
    service.renew(3640)
    service.identities.reload()
    assert "expired" in service.expiry.unready_reason()


def left(metrics: Metrics, of: str) -> float:
    start = f'avq_certificate_seconds_left{{certificate="{of}"}} '
    (found,) = [line for line in metrics.text().decode().splitlines() if line.startswith(start)]
    return float(found.removeprefix(start))


def test_a_list_that_should_have_been_replaced_is_no_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    service = Service(tmp_path, days=200)
    path = revoke(tmp_path, ["edge-1"], 30)
    config = replace(
        CloudConfig(tmp_path, "model"),
        tls_certificate=tmp_path / "server.pem",
        tls_key=tmp_path / "server-key.pem",
        tls_clients=tmp_path / "ca.pem",
        tls_refused=path,
    )
    expiry = Expiry(service.tls, Identities(config, service.tls), lambda: service.now)
    service.now += 31 * DAY
    assert not expiry.unready_reason()
    expiry.check()
    assert "list of refused certificates expired" in caplog.text
    assert "its certificates stay refused" in caplog.text


def test_without_tls_nothing_ends(caplog: pytest.LogCaptureFixture) -> None:
    config = CloudConfig(Path("bundle"), "model")
    expiry = Expiry(None, Identities(config))
    caplog.set_level(logging.DEBUG)
    expiry.check()
    assert not expiry.unready_reason()
    assert not caplog.messages
