"""Real processes: two that train as one, and one that is stopped by Ctrl-C."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aligned_vq.codec.bundle import open_edge_bundle
from aligned_vq.training.config_file import read_config
from aligned_vq.training.run import TrainingRun
from tests.training.tiny import losses, saved_place, tiny_settings

SECONDS = 180
PROCESSES = 2


def write_config(path: Path, settings: Any) -> Path:
    path.write_text(yaml.safe_dump(settings, sort_keys=False))  # the first point is the default
    return path


def train_in_processes(config: Path, out: Path) -> None:
    """`process_report` in two processes that know of each other."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={PROCESSES}"]
    command = [sys.executable, *launcher, "-m", "tests.training.process_report"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(config), str(out)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def report(out: Path, process: int) -> list[dict[str, Any]]:
    path = out.with_name(f"{out.name}-{process}.jsonl")
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.timeout(400)
def test_two_processes_hold_the_same_codebooks_and_learn_what_one_learns(
    llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    changes = {
        "codec.codebook_sizes": [64, 32],
        "align.steps": 6,
        "task.steps": 3,
        "lora.rank": 2,
        "codebooks.revive_every": 2,
        "codebooks.revive_below": 0.3,
        "codebooks.decay": 0.7,
    }
    config = write_config(tmp_path / "run.yaml", tiny_settings(llava_directory, pictures, changes))
    train_in_processes(config, tmp_path / "two")
    first, second = (report(tmp_path / "two", process) for process in range(PROCESSES))
    assert len(first) == 9
    assert first == second
    assert all(facts["processes"] == PROCESSES and facts["sensitivity"] for facts in first)
    dead = [facts["dead"] for facts in first]
    assert max(dead[::2]) > 0  # some entries died ...
    assert dead[5] < max(dead)  # ... and were revived

    TrainingRun.open(read_config(config), tmp_path / "one").train()
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert [(f["stage"], f["step"]) for f in one] == [(f["stage"], f["step"]) for f in two]
    means = [np.mean([f["loss"] for f in run]) for run in (one, two)]
    assert abs(means[0] / means[1] - 1) < 0.05
    assert abs(one[0]["loss"] / two[0]["loss"] - 1) < 0.02


@pytest.mark.timeout(400)
def test_control_c_leaves_a_state_and_the_same_command_goes_on(
    llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    changes = {"align.steps": 60, "save_every": 1000}
    settings = tiny_settings(llava_directory, pictures, changes)
    config = write_config(tmp_path / "run.yaml", settings)
    out = tmp_path / "out"
    command = [sys.executable, "-m", "aligned_vq.cli", "train", str(config), "--out", str(out)]
    with (tmp_path / "log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_for_a_step(process, out)
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=SECONDS) == 130
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        written = log.read()
    assert "run the same command again to resume" in written
    assert "Traceback" not in written
    stage, step = saved_place(out)
    assert stage == "align"
    assert 0 < step < 60
    done = subprocess.run(
        [*command, "--set", "align.steps=60"],
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert [f["step"] for f in losses(out)] == list(range(60))
    points = open_edge_bundle(out / "bundle").manifest.operating_points
    assert [point.name for point in points] == ["small", "full", "first"]
    assert "small, full, first" in done.stdout


def wait_for_a_step(process: subprocess.Popen[bytes], out: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if (out / "losses.jsonl").exists():
            return
        time.sleep(0.01)
    raise AssertionError("no step was taken")
