"""NYU Depth v2, as nicr_scene_analysis_datasets writes it and EdgeVL reads it.

FOLDER/train.txt                        one number a line
FOLDER/train/rgb/0001.png
FOLDER/train/depth/0001.png             16 bits, millimetres
FOLDER/train/scene_class/0001.txt       such as `living_room`
FOLDER/test...                          likewise
"""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.pairs.listing import check_split, pair_list, read_label, read_lines
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError

SPLITS = ("train", "test")


def read_nyu2(folder: Path, split: str) -> PairList:
    """The pairs of a split, in the order of its list.

    These files do not tell which frames show one room, so every pair is a scene of its own.

    Raises:
        ConfigError: no such split; a file is missing, or the list has something else than numbers.
    """
    check_split(split, SPLITS, "NYU Depth v2")
    path, top = folder / f"{split}.txt", folder / split
    pairs = []
    for line in read_lines(path, "numbers of NYU Depth v2's images"):
        if not (line.isascii() and line.isdecimal()):
            raise ConfigError(f"{path}: expected whole numbers, got {line!r}; correct it")
        name = f"{int(line):04d}"
        pairs.append(
            Pair(
                name,
                top / "rgb" / f"{name}.png",
                top / "depth" / f"{name}.png",
                read_label(top / "scene_class" / f"{name}.txt"),
                name,
            )
        )
    return pair_list(f"nyu2:{folder} ({split})", "depth", pairs)
