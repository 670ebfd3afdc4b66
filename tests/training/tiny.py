"""Tiny training runs: the random LLaVA of the suite on 24 pictures with two questions each."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from aligned_vq.training.config import TrainConfig
from aligned_vq.training.config_file import config_from
from aligned_vq.training.loop import StepReport
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.stage import CodecTask
from aligned_vq.training.state import load_state

PICTURES = 24
SETTINGS: dict[str, Any] = {
    "codec.codebook_sizes": [16, 32],
    "codec.codebook_dim": 8,
    "codec.refiner_blocks": 1,
    "codec.refiner_width": 32,
    "codec.points": {
        "small": {"stages": [0, 1], "mean_bytes": 14},
        "full": {"stages": [0, 1]},
        "first": {"stages": [0]},
    },
    "data.calibration_images": PICTURES,
    "align.batch_size": 4,
    "task.batch_size": 4,
    "precision": "no",
}


def write_data(folder: Path) -> Path:
    """24 smooth pictures, and a LLaVA file with questions about them."""
    rng = np.random.default_rng(0)
    records = []
    for number in range(PICTURES):
        pixels = rng.integers(0, 256, (4, 4, 3), np.uint8)
        smooth = Image.fromarray(pixels).resize((64, 60), Image.Resampling.BICUBIC)
        smooth.save(folder / f"{number:02}.png")
        texts = ("<image>\nWhat colour?", ["red", "blue"][number % 2], "How many?", f"{number % 3}")
        turns = [{"from": ("human", "gpt")[i % 2], "value": text} for i, text in enumerate(texts)]
        records.append({"id": number, "image": f"{number:02}.png", "conversations": turns})
    (folder / "chat.json").write_text(json.dumps(records))
    return folder


def tiny_settings(llava: Path, data: Path, changes: Mapping[str, Any] | None = None) -> Any:
    """A configuration as nested mappings; `changes` by dotted key."""
    source = {"checkpoint": str(llava), "data.train": f"llava:{data / 'chat.json'}"}
    nested: dict[str, Any] = {}
    for key, value in (SETTINGS | source | dict(changes or {})).items():
        place = nested
        *sections, last = key.split(".")
        for section in sections:
            place = place.setdefault(section, {})
        place[last] = value
    return nested


def tiny_config(llava: Path, data: Path, changes: Mapping[str, Any] | None = None) -> TrainConfig:
    """A configuration of the tiny model."""
    return config_from(tiny_settings(llava, data, changes), "test")


def losses(out: Path) -> list[dict[str, Any]]:
    """What every step wrote."""
    lines = (out / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def saved_tensors(out: Path) -> dict[str, Tensor]:
    """The tensors of the last checkpoint."""
    saved = load_state(out / "state")
    assert saved is not None
    return saved[1]


def saved_place(out: Path) -> tuple[str, int]:
    """Stage and step of the last checkpoint."""
    saved = load_state(out / "state")
    assert saved is not None
    return saved[0]["stage"], saved[0]["step"]


def copied(run: TrainingRun) -> dict[str, Tensor]:
    """Everything that a run trains, as it is now."""
    return {name: tensor.clone() for name, tensor in run.modules.tensors().items()}


def frozen(run: TrainingRun) -> dict[str, Tensor]:
    """Everything of the model that a run must not touch."""
    model = run.modules.model
    whole = model.state_dict(keep_vars=True)
    codec = ("quantizer.", "link.")
    return {n: t for n, t in whole.items() if not n.startswith(codec) and ".lora_" not in n}


def after_steps(monkeypatch: Any, act: Any, *, stage: str, step: int) -> None:
    """Call `act` with the run's modules once, after this step of this stage, before any save."""
    after_step = CodecTask.after_step
    waiting = [True]

    def observed(task: CodecTask, report: StepReport) -> None:
        after_step(task, report)
        if waiting and (task.name, report.step) == (stage, step):
            waiting.clear()
            act(task.modules)

    monkeypatch.setattr(CodecTask, "after_step", observed)


def differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that differ."""
    assert one.keys() == other.keys()
    return [name for name, tensor in one.items() if not torch.equal(tensor, other[name])]
