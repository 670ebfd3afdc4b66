"""Small data sets in the exact layouts of the official ones."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def save(path: Path, values: NDArray[np.generic]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)
    return path


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def colour(shade: int, height: int = 12, width: int = 16) -> NDArray[np.uint8]:
    return np.full((height, width, 3), shade, np.uint8)


def depth(first_mm: int, height: int = 12, width: int = 16) -> NDArray[np.uint16]:
    """Distinct depths, so that a wrong file or byte order is noticed."""
    steps = np.arange(height * width, dtype=np.uint16).reshape(height, width)
    return (first_mm + steps).astype(np.uint16)


def scannet(folder: Path) -> Path:
    """Two scans of one room, with frames in folders, and one other room; colour is larger."""
    stems = {
        "train": (
            "structureio_968x1296/scene0000_00/00000",
            "structureio_968x1296/scene0000_00/00100",
            "structureio_968x1296/scene0000_01/00000",
            "structureio_968x1296/scene0002_00/00000",
        ),
        "valid": ("structureio_968x1296/scene0011_00/00200",),
    }
    labels = {"scene0000": "apartment", "scene0002": "bedroom / hotel", "scene0011": "misc"}
    for split, names in stems.items():
        write(folder / f"{split}_every_100th.txt", "\n".join(names) + "\n")
        for number, stem in enumerate(names):
            # The aspect of 1296 x 968 beside that of 640 x 480.
            save(folder / split / "rgb" / f"{stem}.jpg", colour(10 * number, 242, 324))
            save(folder / split / "depth" / f"{stem}.png", depth(1000 * (number + 1), 48, 64))
            label = labels[stem[-18:-9]]
            write(folder / split / "scene_class" / f"{stem[:-6]}.txt", label)
    return folder


def nyu2(folder: Path) -> Path:
    write(folder / "train.txt", "3\n4\n5\n")
    write(folder / "test.txt", "1\n1449\n")
    for split, numbers in (("train", (3, 4, 5)), ("test", (1, 1449))):
        for number in numbers:
            name = f"{number:04d}"
            save(folder / split / "rgb" / f"{name}.png", colour(number % 256))
            save(folder / split / "depth" / f"{name}.png", depth(number))
            write(folder / split / "scene_class" / f"{name}.txt", "living_room\n")
    return folder


def sun_rgbd(folder: Path) -> Path:
    names = ("dining_area__kv1_NYUdata_NYU0001", "bathroom__xtion_sun3ddata__a_0003")
    for split in ("train", "test"):
        for number, name in enumerate(names):
            save(folder / split / "rgb" / f"{name}.jpg", colour(50 * number))
            save(folder / split / "depth" / f"{name}.png", depth(2000 * (number + 1)))
    return folder


def eurosat(folder: Path) -> Path:
    lists = {"train": ("River/River_2.jpg", "Forest/Forest_1.jpg"), "test": ("Pasture/a_1.jpg",)}
    for split, lines in lists.items():
        write(folder / f"{split}.txt", "".join(f"{line}\n" for line in lines))
        for number, line in enumerate(lines):
            save(folder / "EuroSAT_RGB" / line, colour(20 * number, 64, 64))
            swir = np.full((64, 64), 100 + number, np.uint8)
            save(folder / "EuroSAT_SWIR" / line, swir)
    return folder
