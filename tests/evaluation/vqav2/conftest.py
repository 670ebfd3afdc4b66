"""One folder of the reference world in VQA-v2's format."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.evaluation.vqav2.world import write_world

QUESTIONS = 60


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about pictures, with the answers of ten people."""
    folder = tmp_path_factory.mktemp("vqav2")
    write_world(folder, QUESTIONS)
    return folder
