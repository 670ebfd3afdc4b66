"""EuroSAT in colour and short-wave infrared, as EdgeVL prepares it.

FOLDER/train.txt                        CLASS/NAME.jpg a line
FOLDER/test.txt                         likewise, of other classes
FOLDER/EuroSAT_RGB/CLASS/NAME.jpg
FOLDER/EuroSAT_SWIR/CLASS/NAME.jpg      band 12 divided by 4095, clipped to 0 to 1, in 8 bits

The label is the folder (`AnnualCrop`).
"""

from __future__ import annotations

from pathlib import Path, PurePosixPath

from aligned_vq.data.pairs.listing import check_split, pair_list, read_lines
from aligned_vq.data.pairs.types import Pair, PairList
from aligned_vq.errors import ConfigError

SPLITS = ("train", "test")


def read_eurosat(folder: Path, split: str) -> PairList:
    """The pairs of a split, ordered by name; every tile is a scene of its own.

    Raises:
        ConfigError: no such split; a file is missing, or a line is not CLASS/NAME.jpg.
    """
    check_split(split, SPLITS, "EuroSAT")
    path = folder / f"{split}.txt"
    pairs = []
    for line in sorted(read_lines(path, "EuroSAT's images")):
        image = PurePosixPath(line)
        if len(image.parts) != 2 or ".." in image.parts or image.suffix != ".jpg":
            raise ConfigError(f"{path}: expected CLASS/NAME.jpg, got {line!r}; correct it")
        name = str(image.with_suffix(""))
        rgb, infrared = (folder / part / image for part in ("EuroSAT_RGB", "EuroSAT_SWIR"))
        pairs.append(Pair(name, rgb, infrared, image.parts[0], name))
    return pair_list(f"eurosat:{folder} ({split})", "infrared", pairs)
