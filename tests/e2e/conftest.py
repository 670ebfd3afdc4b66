"""Fixtures of the tests across processes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def talkative(llava_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint with room for long answers, which it hardly ever ends by itself."""
    folder = tmp_path_factory.mktemp("talkative") / "llava"
    shutil.copytree(llava_directory, folder)
    for name, section, change in (
        ("config.json", "text_config", {"max_position_embeddings": 4096}),
        ("generation_config.json", None, {"eos_token_id": 3}),
    ):
        settings = json.loads((folder / name).read_text())
        (settings if section is None else settings[section]).update(change)
        (folder / name).write_text(json.dumps(settings))
    return folder
