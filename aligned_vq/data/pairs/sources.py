"""Opening of sources of pairs by specification, such as `scannet:FOLDER`."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.pairs.eurosat import read_eurosat
from aligned_vq.data.pairs.folders import read_folders
from aligned_vq.data.pairs.nyu2 import read_nyu2
from aligned_vq.data.pairs.scannet import FOLDERS, read_scannet
from aligned_vq.data.pairs.sun_rgbd import read_sun_rgbd
from aligned_vq.data.pairs.types import PairSource, load_pair
from aligned_vq.errors import ConfigError

CHECKED_AT_START = 4
"""Pairs that `open_pairs` loads, so that wrong files are reported before training."""
_FORMS = (
    "scannet:FOLDER, scannet:FOLDER#infrared, nyu2:FOLDER, sun_rgbd:FOLDER, eurosat:FOLDER, "
    "folders:FOLDER or folders:FOLDER#infrared"
)


def open_pairs(spec: str, split: str) -> PairSource:
    """The source that `spec` names; all files exist, and the first pairs were loaded as a check.

    Args:
        spec: One of the following; `~` is the home directory, and paths must not contain `#`. After
            a `#` stands the modality of the other halves, `depth` or `infrared`; the default is
            `depth`.
            `scannet:/folder`: see `read_scannet`; `#infrared` for the reference rooms.
            `nyu2:/folder`, `sun_rgbd:/folder`, `eurosat:/folder`: see their modules.
            `folders:/folder`: images of equal names in `/folder/SPLIT/rgb` and
            `/folder/SPLIT/depth`, or `/folder/SPLIT/infrared` with `#infrared`.
        split: Of the data set, such as `train`; for `folders`, any folder.

    Raises:
        ConfigError: The spec is not of these forms, there is no such split, or files are missing.
        InvalidInput: One of the first images is damaged or of another kind.
    """
    kind, _, rest = spec.partition(":")
    location, hash_sign, option = rest.partition("#")
    takes_option = kind in ("scannet", "folders")
    modality = next((name for name in FOLDERS if name == (option or "depth")), None)
    if not location or modality is None or (hash_sign and not (takes_option and option)):
        raise _unknown(spec)
    path = Path(location).expanduser()
    match kind:
        case "scannet":
            source: PairSource = read_scannet(path, split, modality)
        case "nyu2":
            source = read_nyu2(path, split)
        case "sun_rgbd":
            source = read_sun_rgbd(path, split)
        case "eurosat":
            source = read_eurosat(path, split)
        case "folders":
            source = read_folders(path / split / "rgb", path / split / modality, modality)
        case _:
            raise _unknown(spec)
    for index in range(min(CHECKED_AT_START, len(source))):
        load_pair(source[index], source.modality)
    return source


def _unknown(spec: str) -> ConfigError:
    return ConfigError(f"expected pairs of images as {_FORMS}, got {spec!r}: use one of these")
