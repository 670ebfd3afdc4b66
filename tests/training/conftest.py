"""Data of the tiny training runs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from accelerate.state import AcceleratorState

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
