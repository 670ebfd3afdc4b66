"""Two processes learn what one learns."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from aligned_vq.classifier.files import read_classifier

SECONDS = 300
STAGES = ("distill", "contrast")


def train(launcher: list[str], config: Path, out: Path) -> None:
    command = [sys.executable, "-m", *launcher, "edgevl-train", str(config), "--out", str(out)]
    done = subprocess.run(
        command,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def losses(out: Path, stage: str) -> list[dict[str, Any]]:
    lines = (out / stage / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.long
@pytest.mark.timeout(700)
def test_two_processes_learn_what_one_learns(
    small_clip: Path, rooms: Path, labels_file: Path, tmp_path: Path
) -> None:
    settings = {
        "teacher": str(small_clip),
        "validate_every": 4,
        "pairs": {
            "train": f"scannet:{rooms}",
            "side_px": 48,
            "labels": str(labels_file),
            "keep": 1.0,
            "validation_share": 0.2,
        },
        "distill": {"steps": 4, "batch_size": 8, "warmup_steps": 1, "bfloat16": False},
        "contrast": {"steps": 3, "anchors": 4, "warmup_steps": 1, "margin": 1.0},
    }
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    train(["aligned_vq.cli"], config, tmp_path / "one")
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    train([*launcher, "-m", "aligned_vq.cli"], config, tmp_path / "two")
    for stage in STAGES:
        one, two = losses(tmp_path / "one", stage), losses(tmp_path / "two", stage)
        assert [line["step"] for line in one] == [line["step"] for line in two]
        values = np.array([[line["loss"] for line in run] for run in (one, two)])
        # Gradients of both halves of a batch are averaged; triplets by process.
        np.testing.assert_allclose(values[0], values[1], rtol=0.05)
    first, second = (losses(tmp_path / name, "distill")[0]["loss"] for name in ("one", "two"))
    assert first == pytest.approx(second, rel=1e-3)
    assert read_classifier(tmp_path / "two" / "classifier").takes_any_label
