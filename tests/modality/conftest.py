"""Pairs of pictures on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.modality.tiny import write_pairs
from tests.training.conftest import _fresh_accelerator as _fresh_accelerator


@pytest.fixture(scope="session")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pairs of colour and depth."""
    return write_pairs(tmp_path_factory.mktemp("pairs"))
