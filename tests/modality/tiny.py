"""Runs of a tiny model on a few pairs of pictures."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aligned_vq.files.config_file import config_of
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.modality.run import ModalityRun

PAIRS = 24
QUESTIONS = ["How many?", "Is it near?"]


def write_pairs(folder: Path, modality: str = "depth") -> Path:
    """24 pairs in folders: smooth colour images, and another image of the same light and dark."""
    rng = np.random.default_rng(0)
    for name in ("rgb", modality):
        (folder / "train" / name).mkdir(parents=True)
    for number in range(PAIRS):
        coarse = rng.integers(0, 256, (4, 4, 3), np.uint8)
        smooth = Image.fromarray(coarse).resize((64, 60), Image.Resampling.BICUBIC)
        smooth.save(folder / "train" / "rgb" / f"{number:02}.png")
        grey = np.asarray(smooth.convert("L"))
        other = grey if modality == "infrared" else (4000 - 10 * grey.astype(np.uint16))
        Image.fromarray(other).save(folder / "train" / modality / f"{number:02}.png")
    return folder


def tiny_settings(llava: Path, bundle: Path, pairs: Path, **changes: Any) -> dict[str, Any]:
    """Settings of a run of a few steps, with some changed."""
    data = {
        "train": f"folders:{pairs}",
        "questions": QUESTIONS,
        "validation_share": 0.3,
        "fixed_range": [1.0, 4.5],
        **changes.pop("data", {}),
    }
    return {
        "modality": "depth",
        "checkpoint": str(llava),
        "bundle": str(bundle),
        "data": data,
        "steps": 6,
        "batch_size": 4,
        "learning_rate": 0.002,
        "warmup_steps": 1,
        "validate_every": 2,
        "save_every": 2,
        **changes,
    }


def opened(settings: Mapping[str, Any], out: Path) -> ModalityRun:
    """A run of these settings."""
    return ModalityRun(config_of(ModalityRunConfig(), settings, "test"), out)


def losses(out: Path) -> list[dict[str, Any]]:
    """What every step wrote."""
    lines = (out / "prefix" / "losses.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def scores(out: Path) -> list[dict[str, float]]:
    """What every validation wrote."""
    found: list[dict[str, float]] = json.loads((out / "prefix" / "scores.json").read_text())[
        "scores"
    ]
    return found
