"""A pool of rendered scenes on disk, rendered once by all cores and read as memory maps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from aligned_vq.data.scenes.patches import NUM_PATCHES, SceneLabels, label_scene
from aligned_vq.data.scenes.scene import (
    IMAGE_SIZE_PX,
    MAX_OBJECTS,
    Scene,
    Split,
    render,
    sample_scene,
    scene_rng,
)
from aligned_vq.files.atomic_folder import new_folder

_FIELDS: dict[str, tuple[tuple[int, ...], type]] = {
    "pixels": ((IMAGE_SIZE_PX, IMAGE_SIZE_PX, 3), np.uint8),
    "owner": ((NUM_PATCHES,), np.int8),
    "centre": ((NUM_PATCHES,), np.bool_),
    "attributes": ((MAX_OBJECTS, 3), np.int8),
    "place": ((MAX_OBJECTS, 2), np.float32),
}

_DONE = "done"


class ScenePool:
    """The first `count` scenes of a split: pixels uint8 `[H, W, 3]` and patch labels.

    Scenes are rendered unless `directory` already has a finished pool of the same split and size.
    """

    def __init__(self, directory: Path, split: Split, count: int) -> None:
        self.split: Split = split
        self.count = count
        folder = directory / f"{split}-{count}"
        # The marker file tells finished pools from those that older releases, which did not write
        # atomically, left unfinished.
        if not (folder / _DONE).exists():
            directory.mkdir(parents=True, exist_ok=True)
            with new_folder(folder, ("*.npy", _DONE)) as new:
                self._open(new, "w+")
                self._render_all()
                for array in self._arrays.values():
                    array.flush()
                # The marker comes last, because it declares the pool finished.
                (new / _DONE).touch()
        self._open(folder, "r")

    def labels(self, indices: NDArray[np.int64]) -> SceneLabels:
        """Stacked labels of some scenes."""
        return SceneLabels(*(self._arrays[name][indices] for name in SceneLabels._fields))

    def pixels(self, index: int) -> NDArray[np.uint8]:
        """Pixels of one scene, uint8 `[H, W, 3]`."""
        pixels: NDArray[np.uint8] = self._arrays["pixels"][index]
        return pixels

    def scene(self, index: int) -> tuple[Scene, np.random.Generator]:
        """A scene, and its random generator in the state after sampling the scene."""
        rng = scene_rng(self.split, index)
        return sample_scene(rng), rng

    def _open(self, folder: Path, mode: str) -> None:
        self._arrays = {
            name: np.lib.format.open_memmap(
                folder / f"{name}.npy",
                mode=mode,
                dtype=dtype,
                # When a file is opened for reading, its header has the shape.
                shape=(self.count, *shape) if mode == "w+" else None,
            )
            for name, (shape, dtype) in _FIELDS.items()
        }

    def _render_all(self) -> None:
        jobs: Iterator[tuple[Split, int]] = ((self.split, index) for index in range(self.count))
        with ProcessPoolExecutor(os.cpu_count()) as workers:
            # Chunks reduce the communication between processes.
            results = workers.map(_render_one, jobs, chunksize=32)
            bar = tqdm(results, total=self.count, desc=f"render {self.split}", unit="scene")
            for index, (pixels, labels) in enumerate(bar):
                self._arrays["pixels"][index] = pixels
                for name, value in zip(SceneLabels._fields, labels, strict=True):
                    self._arrays[name][index] = value


def _render_one(job: tuple[Split, int]) -> tuple[NDArray[np.uint8], SceneLabels]:
    scene = sample_scene(scene_rng(*job))
    rendering = render(scene)
    return rendering.pixels, label_scene(scene, rendering.object_map)
