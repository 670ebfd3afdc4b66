"""From an RGB image to the vision tower's input, pixel for pixel as transformers 5 prepares it.

The reference is its Pillow-backed CLIP and LLaVA processors; nothing of it is imported. With the
same Pillow the result is the same to the bit, but for two steps that are rearranged where the
reference would need gigabytes, so that memory stays bounded:

- A padded square above `WHOLE_PIXELS` is resized in strips: all rows first, all columns second. A
  row of one colour stays that colour, so a square result is still the same to the bit.
- A resized image above `WHOLE_PIXELS` (a 1 x 20000 line becomes 336 x 6.7 million) is computed
  only where the crop shows it, to one level of 255. A tall image that shrinks may differ by a few
  where filters overshoot: Pillow 13 resizes its columns first, and here rows come first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.processor import HeightWidth, ProcessorSettings

WHOLE_PIXELS = 16 * 2**20
"""Above this, neither a padded nor a resized image is ever held whole."""
MAX_PADDED_SIDE = 32_768
"""Pixels of the longer side beyond which an image is not padded to a square but refused."""
STRIP_PIXELS = 4 * 2**20

_FILTER_RADIUS = {1: 3.0, 2: 1.0, 3: 2.0}

_Color = tuple[int, int, int]


class _Crop(NamedTuple):
    """One axis of a centre crop: `length` pixels from `start` land at `place` of the output."""

    start: int
    length: int
    place: int

    @classmethod
    def centered(cls, side: int, output: int) -> _Crop:
        """The rounding of the reference: cuts round down, surrounding zeros round up."""
        if side >= output:
            return cls((side - output) // 2, output, 0)
        return cls(0, side, (output - side + 1) // 2)


@dataclass(frozen=True, eq=False)
class View:
    """What the model sees of an image, however large that was: `[H, W, 3]` uint8 pixels."""

    pixels: NDArray[np.uint8]

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that name it."""
        return hashlib.sha256(self.pixels.data).digest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and other.digest == self.digest

    def __hash__(self) -> int:
        return hash(self.digest)


def preprocess(image: Image.Image, settings: ProcessorSettings) -> NDArray[np.float32]:
    """The vision tower's input: `[3, H, W]` float32; arguments and errors as for `view_of`."""
    return normalize(view_of(image, settings), settings)


def preprocess_batch(
    images: Iterable[Image.Image], settings: ProcessorSettings
) -> NDArray[np.float32]:
    """Several images as `[B, 3, H, W]` float32; arguments and errors as for `view_of`."""
    return np.stack([preprocess(image, settings) for image in images])


def view_of(image: Image.Image, settings: ProcessorSettings) -> View:
    """The image resized, padded and cut to `settings.output_size`.

    Args:
        image: Any size from 1 x 1 on. RGB, or with `do_convert_rgb` any mode that Pillow converts;
            `load_image` composites transparency, which this does not.
        settings: What to do to it.

    Raises:
        InvalidInput: The image is empty or not RGB, or `do_pad` meets a side above
            `MAX_PADDED_SIDE` pixels.
    """
    if image.width < 1 or image.height < 1:
        raise InvalidInput(
            f"expected at least 1 x 1 pixel, got {image.width} x {image.height}: "
            "send an image with pixels"
        )
    if image.mode != "RGB":
        if not settings.do_convert_rgb:
            raise InvalidInput(
                f"expected an RGB image, got mode {image.mode}: load it with load_image"
            )
        image = image.convert("RGB")

    height, width = image.height, image.width
    if settings.do_pad:
        height = width = max(height, width)
        _check_padded_side(height)
    if settings.do_resize:
        height, width = _resized_size(height, width, settings)
    output_height, output_width = settings.output_size
    rows = _Crop.centered(height, output_height)
    columns = _Crop.centered(width, output_width)

    visible = _visible(image, settings, (height, width), rows, columns)
    pixels = np.zeros((output_height, output_width, 3), np.uint8)
    pixels[
        rows.place : rows.place + rows.length, columns.place : columns.place + columns.length
    ] = np.asarray(visible)
    return View(pixels)


def normalize(view: View, settings: ProcessorSettings) -> NDArray[np.float32]:
    """A view as `[3, H, W]` float32, through a table of the 256 levels, rounded as the reference.

    Args:
        view: What `view_of` made with the same settings.
        settings: What to do to it.
    """
    levels = np.arange(256, dtype=np.float32)
    if settings.do_rescale:
        levels = (np.arange(256, dtype=np.float64) * settings.rescale_factor).astype(np.float32)
    result = np.empty((3, *view.pixels.shape[:2]), np.float32)
    for channel in range(3):
        table = levels
        if settings.do_normalize:
            mean = np.float32(settings.image_mean[channel])
            table = (levels - mean) / np.float32(settings.image_std[channel])
        result[channel] = table[view.pixels[:, :, channel]]
    return result


def _visible(
    image: Image.Image, settings: ProcessorSettings, size: HeightWidth, rows: _Crop, columns: _Crop
) -> Image.Image:
    """What the crop shows of the padded and resized image."""
    height, width = size
    if settings.do_pad and settings.do_resize:
        image = _resize_padded(image, size, settings)
    elif settings.do_pad:
        left, top = (width - image.width) // 2, (height - image.height) // 2
        window = Image.new("RGB", (columns.length, rows.length), _pad_color(settings))
        window.paste(image, (left - columns.start, top - rows.start))
        return window
    elif settings.do_resize and height * width > WHOLE_PIXELS:
        return _resize_window(image, size, rows, columns, settings.resample)
    elif settings.do_resize:
        image = image.resize((width, height), Image.Resampling(settings.resample))
    return image.crop(
        (
            columns.start,
            rows.start,
            columns.start + columns.length,
            rows.start + rows.length,
        )
    )


def _resized_size(height: int, width: int, settings: ProcessorSettings) -> HeightWidth:
    if isinstance(settings.size, tuple):
        return settings.size
    short = settings.size
    if width <= height:
        return int(short * height / width), short
    return short, int(short * width / height)


def _pad_color(settings: ProcessorSettings) -> _Color:
    red, green, blue = (int(mean * 255) for mean in settings.image_mean)
    return red, green, blue


def _check_padded_side(side: int) -> None:
    if side > MAX_PADDED_SIDE:
        raise InvalidInput(
            f"expected sides of at most {MAX_PADDED_SIDE} pixels where images are padded to a "
            f"square, got {side}: send a smaller or a less elongated image"
        )


def _resize_padded(
    image: Image.Image, size: HeightWidth, settings: ProcessorSettings
) -> Image.Image:
    """Pad to a square with the mean colour and resize, in strips where the square is large."""
    height, width = size
    side = max(image.width, image.height)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    color = _pad_color(settings)
    resample = Image.Resampling(settings.resample)
    if side * side <= WHOLE_PIXELS:
        square = Image.new("RGB", (side, side), color)
        square.paste(image, (left, top))
        return square.resize((width, height), resample)
    narrow = Image.new("RGB", (width, side), color)
    step = max(1, STRIP_PIXELS // side)
    for row in range(0, image.height, step):
        end = min(row + step, image.height)
        strip = Image.new("RGB", (side, end - row), color)
        strip.paste(image.crop((0, row, image.width, end)), (left, 0))
        narrow.paste(strip.resize((width, end - row), resample), (0, top + row))
    return narrow.resize((width, height), resample)


def _resize_window(
    image: Image.Image, size: HeightWidth, rows: _Crop, columns: _Crop, resample: int
) -> Image.Image:
    """The cropped part of the resized image, from the source pixels that reach into it."""
    radius = _FILTER_RADIUS[resample]
    low_x, high_x, left, right = _source_span(columns, image.width, size[1], radius)
    low_y, high_y, top, bottom = _source_span(rows, image.height, size[0], radius)
    # Pillow keeps the box in single precision: near the origin of a small piece that suffices.
    piece = image.crop((low_x, low_y, high_x, high_y))
    return piece.resize(
        (columns.length, rows.length),
        Image.Resampling(resample),
        box=(left, top, right, bottom),
    )


def _source_span(
    crop: _Crop, source: int, resized: int, radius: float
) -> tuple[int, int, float, float]:
    """First and last source pixel that a crop depends on, and the crop's place between them."""
    scale = source / resized
    reach = radius * max(scale, 1.0)
    start, end = crop.start * scale, min((crop.start + crop.length) * scale, float(source))
    low = max(0, math.floor(start - reach) - 1)
    high = min(source, math.ceil(end + reach) + 1)
    return low, high, start - low, end - low
