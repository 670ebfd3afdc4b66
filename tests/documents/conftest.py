"""A working directory for examples, whose logs are searched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.documents.reading import ROOT


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
