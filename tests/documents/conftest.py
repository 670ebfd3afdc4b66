"""The reference model behind one cloud and one gateway process, for everything that is shown."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests.documents.reading import ROOT


@pytest.fixture(scope="session")
def reference_cloud() -> Iterator[CloudProcess]:
    with CloudProcess(BUNDLE, CHECKPOINT) as process:
        yield process


@pytest.fixture(scope="session")
def reference_gateway(reference_cloud: CloudProcess) -> Iterator[GatewayProcess]:
    with GatewayProcess(reference_cloud.target, BUNDLE) as process:
        yield process


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that looks like the repository and may be written to."""
    for name in ("aligned_vq", "examples"):
        (tmp_path / name).symlink_to(ROOT / name)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True, scope="module")
def _private_logs(private_logs: None) -> None:
    """No question of an example may stand in a log."""
