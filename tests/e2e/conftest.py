"""Fixtures of the tests across processes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from tests.e2e.operations.collector import Collector
from tests.e2e.raw import RawClient, assert_serves, payload_of
from tests.log_search import LogSearch


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Spans come soon, not after the SDK's five seconds."""
    with Collector() as listening, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield listening


@pytest.fixture(scope="session")
def traced(
    log_search: LogSearch, collector: Collector, llava_directory: Path, bundle_directory: Path
) -> Iterator[CloudProcess]:
    """Traced, and as talkative as it can be made."""
    options = (f"--traces={collector.url}", "--log_format=json", "--log_level=debug")
    with CloudProcess(bundle_directory, llava_directory, *options) as process:
        yield process


@pytest.fixture(scope="module")
def raw(cloud: CloudProcess) -> Iterator[RawClient]:
    """A client that sends whatever it is told."""
    with RawClient(cloud.target) as opened:
        yield opened


@pytest.fixture(scope="module")
def payload(bundle_directory: Path) -> Payload:
    """Of the usual picture."""
    return payload_of(bundle_directory)


@pytest.fixture(scope="module")
def digest(payload: Payload) -> bytes:
    """Of the bundle's manifest, as a question names it."""
    return payload.manifest_digest


@pytest.fixture(scope="module")
def serves_afterwards(cloud: CloudProcess, bundle_directory: Path) -> Iterator[None]:
    """Whatever a file of tests did to the service, it answers a good question afterwards."""
    yield
    assert_serves(cloud.target, bundle_directory)


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """Of every module here."""
