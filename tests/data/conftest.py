"""Data files and working folders of the sources' tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.data import json_stream
from tests.data.source_files import LlavaFolder


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """Where a run keeps its indices of data files."""
    return tmp_path / "work" / "run"


@pytest.fixture(params=[3, 64, json_stream.WINDOW_BYTES])
def window(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of records read in pieces of so many bytes."""
    monkeypatch.setattr(json_stream, "WINDOW_BYTES", request.param)


@pytest.fixture
def llava(tmp_path: Path) -> LlavaFolder:
    """Data in LLaVA's format."""
    return LlavaFolder(tmp_path / "llava")
