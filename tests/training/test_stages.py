"""Every stage and every way to train it runs, moves what it should and nothing else."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from aligned_vq.training.codebooks import CodebookUpdater
from aligned_vq.training.run import TrainingRun
from tests.training.tiny import copied, differing, frozen, losses, saved_place, tiny_config

ALIGN, TASK = {"align.steps": 3}, {"task.steps": 2}
IDENTITY = {"codec.identity": True, "codec.link": "statistics", "codec.points": {}}
LORA: dict[str, Any] = {**TASK, "lora.rank": 2}
CASES: dict[str, dict[str, Any]] = {
    "calibrate": {},
    "align": ALIGN,
    "task": TASK,
    "both": {**ALIGN, **TASK},
    "task without labels": {**TASK, "task.task": 0},
    "no points": {**ALIGN, "codec.points": {}},
    "shares": {**ALIGN, "codec.stage_shares": [1, 0.5]},
    "one stage left out": {**ALIGN, "codec.points": {"a": {"stages": [1]}, "b": {"stages": [0]}}},
    "ema": {**ALIGN, "codebooks.update": "ema", "codebooks.revive_every": 2},
    "rotation": {**ALIGN, "codebooks.estimator": "rotation", "codebooks.sensitivity": False},
    "diversity and rate": {**ALIGN, "align.diversity": 0.1, "align.rate": 0.01},
    "groups": {**ALIGN, "codec.num_groups": 2},
    "statistics": {**ALIGN, "codec.link": "statistics"},
    "closed form": {**ALIGN, "codec.link": "closed_form", "codec.split": "ln1@0"},
    "dropped": {**ALIGN, "codec.link": "dropped", "codec.split": "ln2@1"},
    "pre": {**ALIGN, "codec.link": "identity", "codec.split": "pre"},
    "lora on the suffix": {**LORA, "lora.targets": ["suffix"]},
    "lora on the projector": {**LORA, "lora.targets": ["projector"]},
    "lora on all": {**ALIGN, **LORA, "lora.targets": ["suffix", "projector", "language_model"]},
    "identity": {**LORA, **IDENTITY},
    "checkpointing": {**LORA, "gradient_checkpointing": True},
    "bf16": {**ALIGN, **LORA, "precision": "bf16"},
}


@pytest.mark.parametrize("case", CASES)
def test_it_runs(
    case: str,
    llava_directory: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tiny_config(llava_directory, pictures, CASES[case])
    run = TrainingRun.open(config, tmp_path)
    untouched = {name: tensor.clone() for name, tensor in frozen(run).items()}
    saved: list[dict[str, Tensor]] = []
    save = run._save

    def noted(*arguments: Any) -> None:
        saved.append(copied(run))
        save(*arguments)

    monkeypatch.setattr(run, "_save", noted)
    run.train()

    steps = [("align", n) for n in range(config.align.steps)]
    steps += [("task", n) for n in range(config.task.steps)]
    if steps:
        figures = losses(tmp_path)
        assert [(f["stage"], f["step"]) for f in figures] == steps
        numbers = [v for f in figures for v in f.values() if isinstance(v, float)]
        assert all(math.isfinite(number) for number in numbers)
        stage, last = steps[-1]
        assert saved_place(tmp_path) == (stage, last + 1)
    assert differing(frozen(run), untouched) == []
    now = copied(run)
    assert all(bool(tensor.isfinite().all()) for tensor in now.values())
    learns = ("link.project", "link.position", "quantizer.")
    expected = {n for n in now if n.startswith(learns) or ".lora_" in n}
    # Importance of later stages is always 1, and the refiner's scale is calibration's.
    quiet = {n for n in now if n.endswith(("importance", "refiner.scale"))}
    moved = set(differing(now, saved[0]))  # after calibration
    assert expected - quiet <= moved if steps else not moved


FEW = {
    "codec.points": {"all": {"stages": [0, 1]}},
    "data.calibration_images": 3,  # leaves something to learn
    "align.steps": 40,
    "align.warmup_steps": 3,
    "align.batch_size": 8,
    "align.learning_rate": 2e-3,
    "align.codebook_learning_rate": 2e-2,
}
ANSWERS = {
    "codec.points": {},
    "task.steps": 30,
    "task.warmup_steps": 3,
    "lora.rank": 4,
    "lora.learning_rate": 5e-3,
    "lora.targets": ["projector", "language_model"],
}


@pytest.mark.parametrize(
    ("changes", "term", "share"),
    [
        (FEW, "hidden", 0.9),
        ({**FEW, "codebooks.estimator": "rotation"}, "hidden", 0.95),
        ({**FEW, "codebooks.update": "ema"}, "hidden", 0.97),
        (ANSWERS, "task", 0.5),
    ],
    ids=["gradient", "rotation", "ema", "answers"],
)
def test_losses_fall(
    changes: dict[str, Any],
    term: str,
    share: float,
    llava_directory: Path,
    pictures: Path,
    tmp_path: Path,
) -> None:
    TrainingRun.open(tiny_config(llava_directory, pictures, changes), tmp_path).train()
    values = [figures[term] for figures in losses(tmp_path)]
    assert sum(values[-5:]) < share * sum(values[:5])


def test_only_entries_that_moved_forget_their_moments(
    llava_directory: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = {
        "align.steps": 4,
        "codec.points": {"all": {"stages": [0, 1]}},
        "codebooks.revive_every": 4,
        "codebooks.revive_below": 0.9,
    }
    revived: list[tuple[nn.Parameter, Tensor]] = []
    update = CodebookUpdater.update

    def noted(*arguments: Any) -> list[tuple[nn.Parameter, Tensor]]:
        found = update(*arguments)
        revived.extend(found)
        return found

    monkeypatch.setattr(CodebookUpdater, "update", noted)
    run = TrainingRun.open(tiny_config(llava_directory, pictures, changes), tmp_path)
    optimisers: list[torch.optim.Optimizer] = []
    monkeypatch.setattr(run, "_save", lambda stage, step, optimiser: optimisers.append(optimiser))
    run.train()
    assert revived
    for entries, rows in revived:
        state = optimisers[-1].state[entries]
        others = torch.ones(len(entries), dtype=torch.bool)
        others[rows] = False
        for moment in (state["exp_avg"], state["exp_avg_sq"]):
            assert not moment[rows].any()
            assert moment[others].any(1).all()
