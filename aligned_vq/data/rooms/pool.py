"""Rendered rooms on disk, rendered once by all cores and read as memory maps."""

from __future__ import annotations

import json
import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aligned_vq.data.rooms.examples import RoomExample, RoomSet
from aligned_vq.files.atomic_folder import new_folder

_TEXTS = "texts.json"
_DTYPES: dict[str, tuple[type, int]] = {
    "rgb": (np.uint8, 3),
    "depth_mm": (np.uint16, 1),
    "infrared": (np.uint8, 1),
    "shown": (np.uint8, 1),
}


class RoomPool:
    """The first `count` rooms of a set: `rgb` `[N, H, W, 3]`, `depth_mm`, `infrared`
    and `shown` `[N, H, W]`, read-only.

    Args:
        directory: where the pool lies, or is rendered to if it is not there.
        rooms: what to render.
        count: how many.
    """

    def __init__(self, directory: Path, rooms: RoomSet, count: int) -> None:
        if not (directory / _TEXTS).exists():
            directory.parent.mkdir(parents=True, exist_ok=True)
            with new_folder(directory, ("*.npy", _TEXTS)) as new:
                _render(new, rooms, count)
        texts = json.loads((directory / _TEXTS).read_text("utf-8"))
        self.labels: list[str] = texts["labels"]
        self.captions: list[str] = texts["captions"]
        self.rgb: NDArray[np.uint8] = np.load(directory / "rgb.npy", mmap_mode="r")
        self.depth_mm: NDArray[np.uint16] = np.load(directory / "depth_mm.npy", mmap_mode="r")
        self.infrared: NDArray[np.uint8] = np.load(directory / "infrared.npy", mmap_mode="r")
        self.shown: NDArray[np.uint8] = np.load(directory / "shown.npy", mmap_mode="r")

    def __len__(self) -> int:
        """Number of rooms."""
        return len(self.labels)


def _render(folder: Path, rooms: RoomSet, count: int) -> None:
    side = rooms.side_px
    arrays = {
        name: np.lib.format.open_memmap(
            folder / f"{name}.npy",
            mode="w+",
            dtype=dtype,
            shape=(count, side, side, 3) if channels == 3 else (count, side, side),
        )
        for name, (dtype, channels) in _DTYPES.items()
    }
    texts: dict[str, list[str]] = {"labels": [], "captions": []}
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        # Chunks reduce the communication between processes.
        examples = workers.map(partial(_example, rooms), range(count), chunksize=32)
        bar = tqdm(examples, total=count, desc=f"render {rooms.split} rooms", unit="room")
        for index, example in enumerate(bar):
            for name, array in arrays.items():
                array[index] = getattr(example, name)
            texts["labels"].append(example.label)
            texts["captions"].append(example.caption)
    for array in arrays.values():
        array.flush()
    # Last, because it declares the pool finished.
    (folder / _TEXTS).write_text(json.dumps(texts), "utf-8")


def _example(rooms: RoomSet, index: int) -> RoomExample:
    return rooms[index]
