"""SUN RGB-D, one folder for each modality, as EdgeVL reads it.

FOLDER/train/rgb/LABEL__NAME.jpg
FOLDER/train/depth/LABEL__NAME.png
FOLDER/test...                          likewise

The label is what stands before the first double underscore (`dining_area`). Depth must be of 16
bits in millimetres: an image of 8 bits has no unit, and loading it raises InvalidInput. The
official files hold millimetres rotated to the left by three bits; rotate them back before.
"""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.pairs.listing import check_split, image_stems, matched, pair_list
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError

SPLITS = ("train", "test")
_SEPARATOR = "__"


def read_sun_rgbd(folder: Path, split: str) -> PairList:
    """The pairs of a split, ordered by name.

    The names do not tell for every camera which images show one room, so every pair is a scene of
    its own.

    Raises:
        ConfigError: no such split; a folder is missing, an image has no counterpart or no label.
    """
    check_split(split, SPLITS, "SUN RGB-D")
    name = f"sun_rgbd:{folder} ({split})"
    rgb = image_stems(folder / split / "rgb", (".jpg",))
    depth = image_stems(folder / split / "depth", (".png",))
    pairs = []
    for stem in matched(rgb, depth, name):
        label, separator, _ = stem.partition(_SEPARATOR)
        if not (label and separator):
            raise ConfigError(
                f"{rgb[stem]}: expected a label before a double underscore, got {stem!r}; rename "
                "both images"
            )
        pairs.append(Pair(stem, rgb[stem], depth[stem], label, stem))
    return pair_list(name, "depth", pairs)
