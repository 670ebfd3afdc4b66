"""A gateway with a classifier, and no cloud behind it."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from aligned_vq.shipped import BUNDLE
from benchmarks.harness.processes import GatewayProcess
from tests.classifier.bundles import write_bundle


@pytest.fixture(scope="session")
def nobody() -> str:
    """An address at which no cloud answers."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        return f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture(scope="session")
def alone(nobody: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[GatewayProcess]:
    folder = write_bundle(tmp_path_factory.mktemp("classifier") / "bundle")
    with GatewayProcess(nobody, BUNDLE, f"--classifier={folder}") as process:
        yield process


@pytest.fixture(scope="session")
def without(nobody: str) -> Iterator[GatewayProcess]:
    """A gateway without a classifier."""
    with GatewayProcess(nobody, BUNDLE) as process:
        yield process
