"""Conversion of Pillow images and arrays to 8-bit RGB, or to one channel at its stored depth."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import InvalidInput

STRIP_PIXELS = 2**19
"""Larger images are converted in strips of this many pixels, which bounds temporary memory."""

# Pillow converts premultiplied modes to these only.
_PREMULTIPLIED = {"La": "LA", "RGBa": "RGBA"}
_DEEP_MODES = ("F", "I")


def to_rgb(image: Image.Image) -> Image.Image:
    """A new RGB image, composited onto white.

    It has no metadata, so that loading it again does not rotate or composite it a second time.
    """
    if image.width * image.height <= STRIP_PIXELS:
        return _convert(image)
    rgb = Image.new("RGB", image.size)
    step = max(1, STRIP_PIXELS // image.width)
    for row in range(0, image.height, step):
        end = min(row + step, image.height)
        rgb.paste(_convert(image.crop((0, row, image.width, end))), (0, row))
    return rgb


def is_deep(mode: str) -> bool:
    """Whether Pillow's mode has one channel of more than 8 bits, as depth cameras write it."""
    return mode in _DEEP_MODES or mode.startswith("I;16")


def _convert(image: Image.Image) -> Image.Image:
    image = _to_eight_bits(image)
    if image.mode in _PREMULTIPLIED:
        image = image.convert(_PREMULTIPLIED[image.mode])
    if "A" in image.getbands() or image.info.get("transparency") is not None:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, (255, 255, 255, 255))
        image = Image.alpha_composite(white, image)
    rgb = image.convert("RGB")
    rgb.info = {}
    return rgb


def _to_eight_bits(image: Image.Image) -> Image.Image:
    if not is_deep(image.mode):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        return Image.fromarray(_uint8_from_float(values))
    _check_uint16(values, image.mode)
    gray = _uint8_from_uint16(values)
    transparent = image.info.get("transparency")
    # A gray level that marks transparent pixels becomes white.
    if isinstance(transparent, int):
        gray[values == transparent] = 255
    return Image.fromarray(gray)


def rgb_from_array(array: NDArray[Any]) -> Image.Image:
    """An RGB image from an array; transparency is composited onto white.

    Args:
        array: `[H, W]`, `[H, W, 1]`, `[H, W, 3]` or `[H, W, 4]` of uint8, uint16 (0 to 65535) or
            float (0 to 1).

    Raises:
        InvalidInput: the array has another shape or dtype, or a value is out of range.
    """
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[:, :, 0]
    if array.ndim != 2 and not (array.ndim == 3 and array.shape[2] in (3, 4)):
        raise InvalidInput(
            "expected an array [H, W], [H, W, 1], [H, W, 3] or [H, W, 4], "
            f"got shape {list(array.shape)}: move the channels last, send one image at a time"
        )
    if array.dtype == np.uint16:
        array = _uint8_from_uint16(array)
    elif np.issubdtype(array.dtype, np.floating):
        array = _uint8_from_float(array)
    elif array.dtype != np.uint8:
        raise InvalidInput(
            "expected an array of uint8, uint16 or float from 0 to 1, "
            f"got {array.dtype}: convert it with astype"
        )
    return to_rgb(Image.fromarray(np.ascontiguousarray(array)))


def to_single_channel(image: Image.Image) -> Image.Image:
    """A new one-channel image of unchanged depth, of mode `L`, `I;16` or `F`.

    Colour is converted to luma; transparency is dropped. Values of mode `I` must be 0 to 65535.

    Raises:
        InvalidInput: a value of mode `I` is out of range.
    """
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        _check_uint16(values, image.mode)
        return Image.fromarray(values.astype(np.uint16))
    # Not converted to L, which would clip the values of mode F.
    single = image.copy() if image.mode == "F" else image.convert("L")
    single.info = {}
    return single


def _check_uint16(values: NDArray[Any], mode: str) -> None:
    low, high = int(values.min()), int(values.max())
    if low < 0 or high > 65_535:
        raise InvalidInput(
            f"expected gray values from 0 to 65535 in a mode {mode} image, "
            f"got {low} to {high}: scale them"
        )


def _uint8_from_uint16(values: NDArray[Any]) -> NDArray[np.uint8]:
    # 65535 = 257 x 255, so this rounds to the nearest of 256 levels.
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _uint8_from_float(values: NDArray[Any]) -> NDArray[np.uint8]:
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):  # also true for NaN
        actual = "NaN" if np.isnan(values).any() else f"{low:g} to {high:g}"
        raise InvalidInput(
            f"expected float pixels from 0 to 1, got {actual}: "
            "divide by the largest value, or send uint8"
        )
    return np.rint(values.astype(np.float32) * 255).astype(np.uint8)
