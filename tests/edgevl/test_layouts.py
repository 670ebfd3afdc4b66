"""A student trained and scored on each official data set's files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.rooms.examples import RoomExample, RoomSet
from aligned_vq.edgevl.config import (
    ContrastConfig,
    DistillConfig,
    PairsConfig,
    StudentRunConfig,
)
from aligned_vq.edgevl.export import export_classifier
from aligned_vq.edgevl.run import StudentRun
from benchmarks.accuracy.recognition import device_scores, labelled, teacher_scores
from tests.data.pairs.layouts import save, write
from tests.edgevl.conftest import LABELS

COUNT = 16
SIDE_PX = 32


def examples(split: str) -> list[tuple[str, RoomExample]]:
    """Numbered rooms."""
    rooms = RoomSet("train" if split == "train" else "test", LABELS, side_px=SIDE_PX)
    return [(f"{number + 1:04d}", rooms[number]) for number in range(COUNT)]


def nyu2(folder: Path, split: str) -> None:
    for name, room in examples(split):
        save(folder / split / "rgb" / f"{name}.png", room.rgb)
        save(folder / split / "depth" / f"{name}.png", room.depth_mm)
        write(folder / split / "scene_class" / f"{name}.txt", room.label)
    numbers = "".join(f"{int(name)}\n" for name, _ in examples(split))
    write(folder / f"{split}.txt", numbers)


def sun_rgbd(folder: Path, split: str) -> None:
    for name, room in examples(split):
        save(folder / split / "rgb" / f"{room.label}__kv1_{name}.jpg", room.rgb)
        save(folder / split / "depth" / f"{room.label}__kv1_{name}.png", room.depth_mm)


def eurosat(folder: Path, split: str) -> None:
    lines = []
    for name, room in examples(split):
        line = f"{room.label}/{room.label}_{split}{name}.jpg"
        save(folder / "EuroSAT_RGB" / line, room.rgb)
        save(folder / "EuroSAT_SWIR" / line, room.infrared)
        lines.append(line)
    write(folder / f"{split}.txt", "".join(f"{line}\n" for line in lines))


def scannet(folder: Path, split: str) -> None:
    split = "train" if split == "train" else "valid"
    stems = []
    for name, room in examples(split):
        stem = f"scene{name}_00_00000"
        save(folder / split / "rgb" / f"{stem}.jpg", np.repeat(np.repeat(room.rgb, 2, 0), 2, 1))
        save(folder / split / "depth" / f"{stem}.png", room.depth_mm)
        write(folder / split / "scene_class" / f"{stem[:-6]}.txt", room.label)
        stems.append(stem)
    write(folder / f"{split}_every_100th.txt", "".join(f"{stem}\n" for stem in stems))


@pytest.mark.parametrize(
    ("kind", "layout", "test_split"),
    [
        ("scannet", scannet, "valid"),
        pytest.param("nyu2", nyu2, "test", marks=pytest.mark.long),
        pytest.param("sun_rgbd", sun_rgbd, "test", marks=pytest.mark.long),
        pytest.param("eurosat", eurosat, "test", marks=pytest.mark.long),
    ],
)
def test_trained_and_scored(
    kind: str,
    layout: Callable[[Path, str], None],
    test_split: str,
    small_clip: Path,
    labels_file: Path,
    tmp_path: Path,
) -> None:
    for split in ("train", test_split):
        layout(tmp_path / "data", split)
    config = StudentRunConfig(
        teacher=str(small_clip),
        pairs=PairsConfig(
            f"{kind}:{tmp_path / 'data'}", 0.3, SIDE_PX, labels=str(labels_file), keep=1.0
        ),
        distill=DistillConfig(steps=2, batch_size=4, warmup_steps=1),
        contrast=ContrastConfig(steps=0, calibration_pairs=4),
    )
    run = StudentRun(config, tmp_path / "run")
    student = run.quantize(run.distill())
    bundle = tmp_path / "classifier"
    export_classifier(run, student, bundle, {"rooms": LABELS}, with_text=False)
    source = open_pairs(config.pairs.train, test_split)
    truth, labels = labelled(source)
    assert sorted(LABELS) == labels
    device = device_scores(str(bundle), source, truth, labels)
    teacher = teacher_scores(run.teacher, source, truth, labels)
    other = "infrared" if kind == "eurosat" else "depth"
    for scores in (device, teacher):
        assert set(scores) == {"rgb", other}
        for found in scores.values():
            assert found.images == COUNT
            assert 0 <= found.accuracy <= 1
