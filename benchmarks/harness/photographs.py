"""Natural photographs from scikit-image and scikit-learn, which need no download."""

from __future__ import annotations

from importlib.resources import files
from importlib.util import find_spec
from typing import NamedTuple

from PIL import Image

from aligned_vq.errors import ConfigError


class PhotographSource(NamedTuple):
    """The file of a photograph in an installed package, and its licence."""

    package: str
    path: str
    distribution: str
    licence: str


PHOTOGRAPHS = {
    "astronaut": PhotographSource(
        "skimage", "data/astronaut.png", "scikit-image", "public domain, NASA"
    ),
    "chelsea": PhotographSource(
        "skimage", "data/chelsea.png", "scikit-image", "CC0, Stefan van der Walt"
    ),
    "coffee": PhotographSource(
        "skimage", "data/coffee.png", "scikit-image", "CC0, Rachel Michetti"
    ),
    "motorcycle": PhotographSource(
        "skimage", "data/motorcycle_left.png", "scikit-image", "Middlebury stereo benchmark 2014"
    ),
    "rocket": PhotographSource(
        "skimage", "data/rocket.jpg", "scikit-image", "public domain, SpaceX"
    ),
    "china": PhotographSource(
        "sklearn", "datasets/images/china.jpg", "scikit-learn", "CC BY 2.0, danielbuechele"
    ),
    "flower": PhotographSource(
        "sklearn", "datasets/images/flower.jpg", "scikit-learn", "CC BY 2.0, vultilion"
    ),
}
"""Photographs by name, 300 to 512 pixels on the shorter side."""


def photograph(name: str) -> Image.Image:
    """A photograph in RGB at its original size.

    Raises:
        ConfigError: the name is unknown, or the package that holds the file is not installed.
    """
    if name not in PHOTOGRAPHS:
        raise ConfigError(f"expected photographs of {', '.join(PHOTOGRAPHS)}, got {name!r}")
    source = PHOTOGRAPHS[name]
    if find_spec(source.package) is None:
        raise ConfigError(
            f"expected {source.distribution} to be installed for {name!r}, got none; run "
            f"`pip install {source.distribution}`"
        )
    with files(source.package).joinpath(source.path).open("rb") as file:
        # Pillow reads lazily: converting decodes before the file is closed.
        return Image.open(file).convert("RGB")
