"""Views of a pair: one crop and one flip for both halves, random or the whole image.

The crop is that of training on ImageNet (Szegedy et al., CVPR 2015): an area and an aspect are
drawn, then a place. EdgeVL draws areas of 0.08 to 1 and flips half of the views.
"""

from __future__ import annotations

import math
from typing import NamedTuple, TypeVar, overload

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import ConfigError
from aligned_vq.images.depth import GreyImage, measured
from aligned_vq.images.masked_resize import Box, resize_valid
from aligned_vq.images.modality import Pixels

DEFAULT_SCALE = (0.08, 1.0)
_ASPECTS = (3 / 4, 4 / 3)
_ATTEMPTS = 10

_Element = TypeVar("_Element", bound=np.generic)


class Window(NamedTuple):
    """A part of an image in fractions of its width and height, so that it fits any resolution."""

    left: float = 0.0
    top: float = 0.0
    right: float = 1.0
    bottom: float = 1.0
    flipped: bool = False
    """Mirrored, left to right."""


WHOLE = Window()
"""For evaluation and mining, which must not depend on chance."""


def random_window(
    rng: np.random.Generator, image: Pixels, scale: tuple[float, float] = DEFAULT_SCALE
) -> Window:
    """A random crop, mirrored in half of the cases.

    Args:
        rng: draws it; the same state gives the same window.
        image: whose aspect counts; one half of a pair.
        scale: bounds of the crop's share of the image's area, at most 1.

    Raises:
        ConfigError: `scale` is out of range or order.
    """
    low, high = scale
    if not 0 < low <= high <= 1:
        raise ConfigError(
            f"expected a scale of crops (low, high) above 0 and up to 1, got {scale}; "
            f"{DEFAULT_SCALE} is common"
        )
    image_aspect = image.width / image.height
    width = height = 1.0
    for _ in range(_ATTEMPTS):
        area = rng.uniform(low, high)
        aspect = math.exp(rng.uniform(math.log(_ASPECTS[0]), math.log(_ASPECTS[1])))
        # In fractions of the image, whose own aspect is taken out.
        width = math.sqrt(area * aspect / image_aspect)
        height = math.sqrt(area / aspect * image_aspect)
        if width <= 1 and height <= 1:
            break
    else:
        width, height = min(width, 1.0), min(height, 1.0)
    left, top = rng.uniform(0, 1 - width), rng.uniform(0, 1 - height)
    return Window(left, top, left + width, top + height, bool(rng.random() < 0.5))


@overload
def paired_view(
    rgb: Pixels, other: Pixels, window: Window, side_px: int
) -> tuple[Pixels, Pixels]: ...
@overload
def paired_view(
    rgb: Pixels, other: GreyImage, window: Window, side_px: int
) -> tuple[Pixels, GreyImage]: ...
def paired_view(
    rgb: Pixels, other: Pixels | GreyImage, window: Window, side_px: int
) -> tuple[Pixels, Pixels | GreyImage]:
    """Both halves of a pair through one window, `side_px` a side.

    Args:
        rgb: colour.
        other: the other half: of one channel as it was loaded, or as `GreyImage`. Percentiles of a
            crop are not those of the image, and a crop may have no valid pixel at all; so where the
            range of greys is not fixed, make greys first.
        window: `WHOLE` or a `random_window`.
        side_px: height and width of the result, whatever the window's aspect.

    Returns:
        Images of the same kinds and dtypes. Colour is resized bicubically, the other half by
        `resize_valid`: depth and greys without a measurement are 0, other floats NaN. Both filters
        reach a pixel or two beyond the window.

    Raises:
        InvalidInput: the other half has several channels, or as `measured`.
    """
    return _cut_colour(rgb, window, side_px), _cut_other(other, window, side_px)


def _cut_colour(rgb: Pixels, window: Window, side_px: int) -> Pixels:
    image = Image.fromarray(np.ascontiguousarray(rgb.values))
    box = _box(window, rgb.height, rgb.width)
    resized = image.resize((side_px, side_px), Image.Resampling.BICUBIC, box=box)
    return Pixels(_mirrored(np.asarray(resized), window))


def _cut_other(half: Pixels | GreyImage, window: Window, side_px: int) -> Pixels | GreyImage:
    size = side_px, side_px
    if isinstance(half, GreyImage):
        values = half.values.astype(np.float32)
        cut, _ = resize_valid(values, half.valid, size, _box(window, *values.shape))
        return GreyImage(_mirrored(np.rint(cut).astype(np.uint8), window))
    values, valid = measured(half)
    cut, seen = resize_valid(values, valid, size, _box(window, *values.shape))
    dtype = half.values.dtype
    if half.modality != "depth":
        cut = np.where(seen, cut, np.float32(np.nan))  # no integer is invalid
    elif dtype == np.uint16:
        cut = cut * 1000  # `measured` gives metres
    stored = (np.rint(cut) if dtype.kind == "u" else cut).astype(dtype)
    return Pixels(_mirrored(stored, window)[:, :, None], half.modality)


def _box(window: Window, height: int, width: int) -> Box:
    # Rounding errors must not take the box out of the image.
    right, bottom = min(window.right * width, width), min(window.bottom * height, height)
    return window.left * width, window.top * height, right, bottom


def _mirrored(image: NDArray[_Element], window: Window) -> NDArray[_Element]:
    return np.ascontiguousarray(image[:, ::-1]) if window.flipped else image
