"""Preparation of RGB images for the vision tower, equal to that of transformers 5.

The reference is the Pillow-backed CLIP and LLaVA processors of transformers, which are not
imported. With the same version of Pillow the result is bit-exact, except where the reference would
need gigabytes of memory for extreme aspect ratios:

- A padded square of more than `WHOLE_PIXELS` is resized in strips, first along rows, then along
  columns. Rows of padding keep their colour, so a square result is still bit-exact.
- Of a resized image of more than `WHOLE_PIXELS` (1 x 20000 becomes 336 x 6.7 million), only the
  crop is computed, exact to one of 255 levels. Tall images that are reduced may differ by a few
  levels where filters overshoot, because Pillow 13 resizes their columns first.
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
from aligned_vq.images.modality import Modality
from aligned_vq.images.processor import HeightWidth, ProcessorSettings

WHOLE_PIXELS = 16 * 2**20
"""Padded and resized images of more pixels are computed in parts."""
MAX_PADDED_SIDE = 32_768
"""Maximum length in pixels of the longer side of an image that is padded to a square."""
STRIP_PIXELS = 4 * 2**20

# Support in source pixels of Lanczos, bilinear and bicubic, by Pillow's number.
_FILTER_RADIUS = {1: 3.0, 2: 1.0, 3: 2.0}

_Color = tuple[int, int, int]


class Crop(NamedTuple):
    """One axis of a centre crop: `length` pixels from `start` are copied to `offset`."""

    start: int
    length: int
    offset: int

    @classmethod
    def centered(cls, side: int, output: int) -> Crop:
        """A centre crop from `side` to `output` pixels, rounded as in the reference."""
        if side >= output:
            return cls((side - output) // 2, output, 0)
        return cls(0, side, (output - side + 1) // 2)


class Framing(NamedTuple):
    """How an image of some size becomes the output of a processor."""

    padded: HeightWidth
    """With the borders that make it a square, if the processor pads."""
    resized: HeightWidth
    rows: Crop
    columns: Crop


def framing(height: int, width: int, settings: ProcessorSettings) -> Framing:
    """The framing of an image of this size; InvalidInput if it is too elongated to be padded."""
    padded = height, width
    if settings.do_pad:
        padded = (max(padded),) * 2
        _check_padded_side(padded[0])
    resized = _resized_size(*padded, settings) if settings.do_resize else padded
    crops = (Crop.centered(*sides) for sides in zip(resized, settings.output_size, strict=True))
    return Framing(padded, resized, *crops)


@dataclass(frozen=True, eq=False)
class View:
    """The pixels of an image that the vision tower receives: uint8 `[H, W, 3]`.

    Args:
        pixels: of colour, or three equal channels of grey.
        modality: of the image.
    """

    pixels: NDArray[np.uint8]
    modality: Modality = "rgb"

    @cached_property
    def digest(self) -> bytes:
        """32 bytes that identify the pixels and their modality."""
        content = hashlib.sha256(self.pixels.data)  # without a copy
        content.update(self.modality.encode())
        return content.digest()

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
    """The image padded, resized and cropped to `settings.output_size`.

    Args:
        image: At least 1 x 1. RGB, or with `do_convert_rgb` any mode that Pillow converts to RGB.
            Transparency is not composited; `load_image` does that.
        settings: The processor settings.

    Raises:
        InvalidInput: The image is empty or not RGB, or is to be padded and has a side of more than
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

    _, size, rows, columns = framing(image.height, image.width, settings)
    visible = _visible(image, settings, size, rows, columns)
    pixels = np.zeros((*settings.output_size, 3), np.uint8)
    pixels[
        rows.offset : rows.offset + rows.length, columns.offset : columns.offset + columns.length
    ] = np.asarray(visible)
    return View(pixels)


def normalize(view: View, settings: ProcessorSettings) -> NDArray[np.float32]:
    """A view rescaled and normalised to float32 `[3, H, W]`.

    Args:
        view: A result of `view_of` with the same settings.
        settings: The processor settings.
    """
    # One table of 256 levels per channel: fast, and rounded exactly as the reference does.
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
    image: Image.Image, settings: ProcessorSettings, size: HeightWidth, rows: Crop, columns: Crop
) -> Image.Image:
    """The part of the padded and resized image that lies inside the crop."""
    height, width = size
    if settings.do_pad and settings.do_resize:
        image = _resize_padded(image, size, settings)
    elif settings.do_pad:
        left, top = (width - image.width) // 2, (height - image.height) // 2
        # Without resizing, only the crop is built, not the whole square.
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
        # Truncated, as in the reference.
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
    """The image padded to a square with the mean colour and resized, in strips if it is large."""
    height, width = size
    side = max(image.width, image.height)
    left, top = (side - image.width) // 2, (side - image.height) // 2
    color = _pad_color(settings)
    resample = Image.Resampling(settings.resample)
    if side * side <= WHOLE_PIXELS:
        square = Image.new("RGB", (side, side), color)
        square.paste(image, (left, top))
        return square.resize((width, height), resample)
    # Along rows first: strips of rows do not depend on each other.
    narrow = Image.new("RGB", (width, side), color)
    step = max(1, STRIP_PIXELS // side)
    for row in range(0, image.height, step):
        end = min(row + step, image.height)
        strip = Image.new("RGB", (side, end - row), color)
        strip.paste(image.crop((0, row, image.width, end)), (left, 0))
        narrow.paste(strip.resize((width, end - row), resample), (0, top + row))
    return narrow.resize((width, height), resample)


def _resize_window(
    image: Image.Image, size: HeightWidth, rows: Crop, columns: Crop, resample: int
) -> Image.Image:
    """The crop of the resized image, computed from the source pixels that influence it."""
    radius = _FILTER_RADIUS[resample]
    low_x, high_x, left, right = _source_span(columns, image.width, size[1], radius)
    low_y, high_y, top, bottom = _source_span(rows, image.height, size[0], radius)
    # Pillow stores the box in single precision, which is exact enough only for small coordinates:
    # hence the crop, whose origin is near the box.
    region = image.crop((low_x, low_y, high_x, high_y))
    return region.resize(
        (columns.length, rows.length),
        Image.Resampling(resample),
        box=(left, top, right, bottom),
    )


def _source_span(
    crop: Crop, source: int, resized: int, radius: float
) -> tuple[int, int, float, float]:
    """The range of source pixels that a crop depends on, and the crop's start and end within it."""
    scale = source / resized
    support = radius * max(scale, 1.0)  # filters widen when they reduce
    start, end = crop.start * scale, min((crop.start + crop.length) * scale, float(source))
    low = max(0, math.floor(start - support) - 1)  # one more for rounding
    high = min(source, math.ceil(end + support) + 1)
    return low, high, start - low, end - low
