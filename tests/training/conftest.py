"""Data of the tiny training runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

from aligned_vq.training import json_stream
from tests.training.source_files import LlavaFolder
from tests.training.tiny import write_data


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of pictures and a file of questions about them."""
    return write_data(tmp_path_factory.mktemp("pictures"))


@pytest.fixture(autouse=True)
def _fresh_accelerator() -> Iterator[None]:
    """accelerate keeps a process's precision for ever; a test may want another."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


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
