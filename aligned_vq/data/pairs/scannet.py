"""ScanNet's subset of frames, as nicr_scene_analysis_datasets writes it and EdgeVL reads it.

FOLDER/train_every_100th.txt            one stem a line
FOLDER/train/rgb/STEM.jpg
FOLDER/train/depth/STEM.png             16 bits, millimetres, 0: none
FOLDER/train/scene_class/SCAN.txt       SCAN: the stem without its last six characters
FOLDER/valid...                         likewise; EdgeVL tests on it

A stem is a scan, a separator and a frame number of five digits, such as `scene0000_00_00100` or,
with folders, `structureio_968x1296/scene0000_00/00100`. Labels are the 21 scene types in lower
case, with the spaces and slashes of the original (`bedroom / hotel`).

The reference rooms have infrared images, too, in FOLDER/train/thermal/STEM.png, of 8 bits. That
folder is this project's: ScanNet has none.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

from aligned_vq.data.pairs.listing import check_split, pair_list, read_label, read_lines
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError
from aligned_vq.images.modality import Modality

SPLITS = ("train", "valid")
FOLDERS: dict[Modality, str] = {"depth": "depth", "infrared": "thermal"}
FRAME_CHARACTERS = 6
"""At the end of a stem: a separator and the frame number."""
_SCAN = re.compile(r"(scene\d+)_\d+")


def list_path(folder: Path, split: str) -> Path:
    """Path of the list of a split's stems."""
    return folder / f"{split}_every_100th.txt"


def read_scannet(folder: Path, split: str, modality: Modality = "depth") -> PairList:
    """The pairs of a split, in the order of its list.

    Several scans of one room (`scene0000_00`, `scene0000_01`) are one scene (`scene0000`), so that
    no room is divided between training and validation.

    Raises:
        ConfigError: no such split or modality; a file is missing, or a stem has no frame number.
    """
    check_split(split, SPLITS, "ScanNet")
    if modality not in FOLDERS:
        raise ConfigError(
            f"expected {' or '.join(FOLDERS)} of ScanNet, got {modality!r}; name one of these"
        )
    path, top = list_path(folder, split), folder / split
    label = cache(read_label)
    pairs = []
    for stem in read_lines(path, "stems of ScanNet's frames"):
        if not stem[-FRAME_CHARACTERS + 1 :].isdecimal() or len(stem) <= FRAME_CHARACTERS:
            raise ConfigError(
                f"{path}: expected stems such as scene0000_00_00100, got {stem!r}; correct it"
            )
        scan = stem[:-FRAME_CHARACTERS]
        pairs.append(
            Pair(
                stem,
                top / "rgb" / f"{stem}.jpg",
                top / FOLDERS[modality] / f"{stem}.png",
                label(top / "scene_class" / f"{scan}.txt"),
                scene_of(scan),
            )
        )
    return pair_list(f"scannet:{folder} ({split})", modality, pairs)


def scene_of(scan: str) -> str:
    """The room of a scan: the scan's name without the number of the scan, if it has one."""
    name = scan.rsplit("/", 1)[-1]
    match = _SCAN.fullmatch(name)
    return match[1] if match else name
