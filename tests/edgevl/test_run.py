"""Whole runs on a few rooms: stages, resumption to the bit, and the bundle on the device."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import Tensor

from aligned_vq.cli import main
from aligned_vq.edgevl.config import StudentRunConfig
from aligned_vq.edgevl.imitator import Imitator
from aligned_vq.edgevl.objectives import Contrast, Distillation
from aligned_vq.edgevl.run import StudentRun
from aligned_vq.errors import ConfigError
from aligned_vq.files.config_file import config_of
from aligned_vq.images.modality import CameraModality
from edge_client.classifier.classifier import EdgeClassifier
from tests.edgevl.conftest import LABELS

Settings = Callable[..., dict[str, Any]]


@pytest.fixture
def settings(small_clip: Path, rooms: Path, labels_file: Path) -> Settings:
    """Settings of a run of a few steps, with some changed."""

    def changed(**sections: Any) -> dict[str, Any]:
        return {
            "teacher": str(small_clip),
            "student": "reference-vit",
            "validate_every": 3,
            "pairs": {
                "train": f"scannet:{rooms}",
                "side_px": 48,
                "labels": str(labels_file),
                "keep": 0.8,
                "validation_share": 0.25,
            },
            "distill": {"steps": 4, "batch_size": 4, "warmup_steps": 1},
            "contrast": {
                "steps": 4,
                "anchors": 2,
                "mine_every": 3,
                "warmup_steps": 1,
                "margin": 1.0,
                "calibration_pairs": 8,
            },
        } | sections

    return changed


@pytest.fixture(scope="module")
def uninterrupted() -> dict[str, dict[str, Tensor]]:
    """Weights of an uninterrupted run, once it was made."""
    return {}


def opened(settings: dict[str, Any], out: Path) -> StudentRun:
    return StudentRun(config_of(StudentRunConfig(), settings, "test"), out)


def weights(run: StudentRun) -> dict[str, Tensor]:
    student = run.quantize(run.distill())
    return {name: value.clone() for name, value in student.state_dict().items()}


def test_both_stages_learn_and_select(settings: Settings, tmp_path: Path) -> None:
    run = opened(settings(), tmp_path / "run")
    assert 0 < run.pseudo.kept.sum() < len(run.training)
    student = run.quantize(run.distill())
    for stage, steps in (("distill", 4), ("contrast", 4)):
        folder = tmp_path / "run" / stage
        lines = [json.loads(line) for line in (folder / "losses.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == list(range(steps))
        scores = json.loads((folder / "scores.json").read_text())["scores"]
        assert [score["step"] for score in scores] == [0, 3, 4]
        for score in scores:
            assert score["mean"] == pytest.approx((score["rgb"] + score["other"]) / 2)
    # The weights are those of the best validation, the first one if equal.
    assert run.validate(student)["mean"] == max(score["mean"] for score in scores)
    assert (tmp_path / "run" / "logs").is_dir()
    assert (tmp_path / "run" / "confidence.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("stage", "kind"), [("distill", Distillation), ("contrast", Contrast)])
def test_an_interrupted_run_ends_with_the_same_weights(
    settings: Settings,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    uninterrupted: dict[str, dict[str, Tensor]],
    stage: str,
    kind: type[Distillation] | type[Contrast],
) -> None:
    if not uninterrupted:
        uninterrupted["weights"] = weights(opened(settings(), tmp_path / "whole"))
    whole = uninterrupted["weights"]
    original = kind.loss

    def stopping(self: Any, model: Any, step: int, batch: Any) -> Any:
        if step == 2:
            signal.raise_signal(signal.SIGINT)  # noted, and obeyed after this step
        return original(self, model, step, batch)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            weights(opened(settings(), tmp_path / "parts"))
    state = json.loads((tmp_path / "parts" / stage / "state" / "state.json").read_text())
    assert state["step"] == 3
    resumed = weights(opened(settings(), tmp_path / "parts"))
    assert whole.keys() == resumed.keys()
    for name, value in whole.items():
        # NaN: a modality that calibration has not seen.
        torch.testing.assert_close(value, resumed[name], rtol=0, atol=0, equal_nan=True)


def test_quantisation_alone_needs_no_triplets(settings: Settings, tmp_path: Path) -> None:
    """Of one label there are none."""
    one = tmp_path / "one.txt"
    one.write_text("kitchen")
    changed = settings()
    sections = {
        "pairs": changed["pairs"] | {"labels": str(one)},
        "contrast": changed["contrast"] | {"triplets": 0.0},
    }
    run = opened(settings(**sections), tmp_path / "run")
    run.quantize(run.distill())
    losses = (tmp_path / "run" / "contrast" / "losses.jsonl").read_text().splitlines()
    assert len(losses) == 4
    assert "triplets_rgb" not in losses[0]


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        ("distill", {"batch_size": 0}, "batch_size must be 1 or more, got 0"),
        ("distill", {"learning_rate": 0.0}, "learning_rate must be positive"),
        ("contrast", {"calibration_pairs": 0}, "calibration_pairs must be 1 or more"),
        ("contrast", {"mine_every": 0}, "mine_every must be 1 or more"),
        ("pairs", {"side_px": 0}, "side_px must be 16 or more"),
        ("pairs", {"fixed_range": [4.0, 0.7]}, "range"),
        ("distill", {"rgb": 0.0, "other": 0.0}, "nothing would be learned"),
        ("distill", {"learning_rate": float("inf")}, "positive and finite"),
        ("student", "nope", "expected a student of teacher-clip, published-vit, .* got 'nope'"),
        ("validate_every", 0, "validate_every must be 1 or more"),
    ],
)
def test_settings_that_cannot_be_trained_with(
    settings: Settings, tmp_path: Path, section: str, values: Any, message: str
) -> None:
    changed = settings()[section] | values if isinstance(values, dict) else values
    with pytest.raises(ConfigError, match=message):
        opened(settings(**{section: changed}), tmp_path / "run")


def test_one_modality_alone(settings: Settings, tmp_path: Path) -> None:
    distill = settings()["distill"] | {"rgb": 0.0}
    run = opened(settings(distill=distill), tmp_path / "run")
    objective = Distillation(run.data, run.config.distill)
    imitator = Imitator(run.distill(), None, 0).train()
    loss, parts = objective.loss(imitator, 0, objective.batch(0))
    assert float(loss.detach()) == pytest.approx(parts["imitate_other"])


@pytest.mark.parametrize("student", ["reference-vit", "reference-swin"])
def test_tokens_of_the_teacher_are_imitated(
    settings: Settings, tmp_path: Path, student: str
) -> None:
    distill = settings()["distill"] | {"tokens": 2.0, "steps": 12, "warmup_steps": 0}
    run = opened(settings(distill=distill, student=student), tmp_path / "run")
    trained = run.distill()
    lines = (tmp_path / "run" / "distill" / "losses.jsonl").read_text().splitlines()
    first, last = (json.loads(lines[i]) for i in (0, -1))
    for modality in ("rgb", "other"):
        assert last[f"tokens_{modality}"] < first[f"tokens_{modality}"]
    terms = ("imitate_rgb", "imitate_other", "tokens_rgb", "tokens_other")
    weights = (1.0, 1.0, 2.0, 2.0)
    weighted = sum(weight * first[name] for weight, name in zip(weights, terms, strict=True))
    assert first["loss"] == pytest.approx(weighted, rel=1e-3)
    # The layer that predicts tokens is not part of the student.
    assert not any("to_teacher" in name for name in trained.state_dict())


def test_the_folder_of_another_run_is_refused(settings: Settings, tmp_path: Path) -> None:
    opened(settings(), tmp_path / "run")
    with pytest.raises(ConfigError, match="another configuration or teacher"):
        opened(settings(seed=1), tmp_path / "run")


def test_pairs_of_one_label_have_no_triplets(
    settings: Settings, tmp_path: Path, rooms: Path
) -> None:
    one = tmp_path / "labels.txt"
    one.write_text("kitchen")
    pairs = settings()["pairs"] | {"labels": str(one)}
    with pytest.raises(ConfigError, match="kept pairs of 2 labels or more, got 1"):
        opened(settings(pairs=pairs), tmp_path / "run")


def test_pseudo_labels_of_other_pairs_are_refused(settings: Settings, tmp_path: Path) -> None:
    run = opened(settings(), tmp_path / "run")
    names = tuple(f"x{name}" for name in run.pseudo.names)
    replace(run.pseudo, names=names).write(tmp_path / "run" / "pseudo_labels.csv")
    with pytest.raises(ConfigError, match=r"of other pairs or labels.*remove it"):
        opened(settings(), tmp_path / "run")


def test_from_rooms_to_the_device(
    settings: Settings, tmp_path: Path, rooms: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings()))
    out = tmp_path / "run"
    assert main(["edgevl-train", str(config), "--out", str(out)]) == 0
    assert f"{out / 'classifier'}: 4 labels, int8" in capsys.readouterr().out
    classifier = EdgeClassifier(out / "classifier")
    stem = (rooms / "valid_every_100th.txt").read_text().split()[0]
    files: dict[CameraModality, str] = {"rgb": f"rgb/{stem}.jpg", "depth": f"depth/{stem}.png"}
    for modality, path in files.items():
        image = rooms / "valid" / path
        known = classifier.classify(image, modality=modality)
        typed = classifier.classify(image, ["gym", "a <|endoftext|> cellar"], modality=modality)
        for found in (known, typed):
            shares = [label.probability for label in found.scores]
            assert sum(shares) == pytest.approx(1, abs=1e-5)
            assert shares == sorted(shares, reverse=True)
        assert {label.label for label in known.scores} == set(LABELS)
    # The device's embedding is that of the trained student.
    run = opened(settings(), out)
    student = run.quantize(run.distill())
    assert np.isfinite(run.validate(student)["mean"])
