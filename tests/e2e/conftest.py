"""Fixtures of the tests across processes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.processes import CloudProcess
from tests.e2e.collector import Collector


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


@pytest.fixture(scope="session")
def collector() -> Iterator[Collector]:
    """Spans come soon, not after the SDK's five seconds."""
    with Collector() as listening, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
        yield listening


@pytest.fixture(scope="session")
def traced(
    collector: Collector, llava_directory: Path, bundle_directory: Path
) -> Iterator[CloudProcess]:
    """Traced, and as talkative as it can be made."""
    options = (f"--traces={collector.url}", "--log_format=json", "--log_level=debug")
    with CloudProcess(bundle_directory, llava_directory, *options) as process:
        yield process
