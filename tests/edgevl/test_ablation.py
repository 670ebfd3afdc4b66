"""The table of what each training step gives, on a few rooms."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from benchmarks.accuracy.student_ablation import VARIANTS, main


def test_every_row_is_a_run_with_its_settings(
    small_clip: Path,
    rooms: Path,
    labels_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "run.yaml"
    pairs = {"train": f"scannet:{rooms}", "side_px": 48, "labels": str(labels_file), "keep": 0.8}
    config.write_text(
        yaml.safe_dump(
            {
                "teacher": str(small_clip),
                "pairs": pairs | {"validation_share": 0.25},
                "distill": {"steps": 2, "batch_size": 4, "warmup_steps": 1},
                "contrast": {"steps": 1, "anchors": 2, "margin": 1.0, "calibration_pairs": 8},
            }
        )
    )
    out = tmp_path / "out"
    arguments = [
        "ablation",
        "--config",
        str(config),
        "--out",
        str(out),
        "--students",
        "reference-vit",
    ]
    monkeypatch.setattr(sys, "argv", arguments)
    assert main() == 0
    found = json.loads((out / "ablation.json").read_text())["rows"]
    assert [row["row"] for row in found] == [variant.name for variant in VARIANTS]
    for row in found:
        assert row["student"] == "reference-vit"
        assert row["mean"] == pytest.approx((row["rgb"] + row["other"]) / 2, abs=0.06)
    # Stage 1 was trained once for the first four rows, and its state copied.
    losses = [
        (out / "reference-vit" / folder / "distill" / "losses.jsonl").read_text()
        for folder in ("contrast.steps=0", "contrast.triplets=0", "whole")
    ]
    assert losses[0] == losses[1] == losses[2]
    alone = json.loads(
        (out / "reference-vit" / "contrast.steps=0_distill.rgb=0" / "run.json").read_text()
    )
    assert alone["config"]["distill"]["rgb"] == 0
    at_once = json.loads(
        (out / "reference-vit" / "distill.steps=0_contrast.steps=STEPS" / "run.json").read_text()
    )
    assert at_once["config"]["contrast"]["steps"] == 2
