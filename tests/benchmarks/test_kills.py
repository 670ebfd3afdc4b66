"""`kill -9` during writing leaves what was there or what is new, for whom it is meant."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests import commands


@pytest.mark.timeout(400)  # of seconds, where a machine is busy otherwise
@pytest.mark.parametrize("options", [(), ("--two_renames",)])
def test_a_handful_of_kills_for_each_writer(options: tuple[str, ...], tmp_path: Path) -> None:
    """Folders are written in the same way without an exchange; files do not depend on it."""
    out = tmp_path / "kills.json"
    writers = ("checkpoint",) if options else ("export", "checkpoint", "certs", "queue")
    command = [sys.executable, "-m", "benchmarks.kills.kills", "--kills=4", "--seed=11"]
    command += [*options, f"--out={out}", "--writers", *writers]
    ended = commands.run(command, timeout=390)
    assert ended.returncode == 0, ended.stdout + ended.stderr[-2000:]
    for row in json.loads(out.read_text())["rows"]:
        assert row["kills"] == row["before"] + row["new"] == 4
        assert row["while_writing"]
