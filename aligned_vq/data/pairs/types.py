"""A colour image and its depth or infrared image of the same view, and sources of such pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol

from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.load import load_pixels
from aligned_vq.images.modality import Modality, Pixels

ASPECT_TOLERANCE = 0.02
"""ScanNet's 1296 x 968 colour and 640 x 480 depth differ by 0.4 %."""


@dataclass(frozen=True)
class Pair:
    """Two image files of one view."""

    name: str
    """Unique in its source."""
    rgb: Path
    other: Path
    """Of the source's modality."""
    label: str | None
    """As the data set writes it."""
    scene: str
    """What the view belongs to: pairs of one scene must not be divided between training and
    validation."""


class PairSource(Protocol):
    """Pairs by index, whose other halves are of one modality."""

    @property
    def name(self) -> str:
        """The data set and its split, for messages and reports."""

    @property
    def modality(self) -> Modality:
        """Of every `other`."""

    def __len__(self) -> int:
        """Number of pairs, at least 1."""

    def __getitem__(self, index: int) -> Pair:
        """The pair at `index`; always the same."""


@dataclass(frozen=True)
class PairList:
    """A `PairSource` in memory: paths and texts, no pixels."""

    name: str
    modality: Modality
    pairs: tuple[Pair, ...]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.pairs)

    def __getitem__(self, index: int) -> Pair:
        """The pair at `index`."""
        return self.pairs[index]


class PairPixels(NamedTuple):
    """The pixels of a pair."""

    rgb: Pixels
    other: Pixels


def load_pair(pair: Pair, modality: Modality) -> PairPixels:
    """Both images of a pair, upright, each with its own number of pixels.

    Registered images show the same view, so their aspects are equal, within `ASPECT_TOLERANCE`;
    sizes may differ, because many depth cameras have fewer pixels than the colour camera beside
    them. An aspect that differs more means another crop, or images that do not belong together.

    Raises:
        ConfigError: a file is missing.
        InvalidInput: a file is damaged or not of the modality, or the aspects differ.
    """
    rgb, other = _load(pair, pair.rgb, "rgb"), _load(pair, pair.other, modality)
    aspects = rgb.width / rgb.height, other.width / other.height
    if abs(aspects[0] / aspects[1] - 1) > ASPECT_TOLERANCE:
        raise InvalidInput(
            f"pair {pair.name}: expected images of one view, with the same aspect, got "
            f"{rgb.width} x {rgb.height} of rgb and {other.width} x {other.height} of {modality}: "
            "crop both alike, or remove the pair"
        )
    return PairPixels(rgb, other)


def _load(pair: Pair, path: Path, modality: Modality) -> Pixels:
    if not path.is_file():
        raise ConfigError(
            f"pair {pair.name}: expected its {modality} image at {path}, found no such file; "
            "restore it: files must not change while they are used"
        )
    try:
        return load_pixels(path, modality)
    except InvalidInput as error:
        raise InvalidInput(f"pair {pair.name}, {path}: {error}") from error
