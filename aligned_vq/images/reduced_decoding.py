"""How much of an image's file is decoded, and what memory that takes, before it is.

libjpeg can decode a JPEG at a half, a quarter or an eighth of its size, for less time and memory
than the whole. A model sees some 336 x 336 pixels of it, so large ones are.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

WHOLE_JPEG_PIXELS = 33 * 2**18
"""JPEGs with more are decoded at a half, a quarter or an eighth, so that no more are left. All that
a Raspberry Pi's camera of 8 megapixels takes, and a screen of 3840 x 2160, are decoded whole."""
LEAST_SIDE = 512
"""Pixels that the shorter side keeps, more than models see."""

BYTES_PER_PIXEL = 8
"""Twice the 4 that Pillow needs, as when an image is turned upright, or was CMYK."""
WEBP_BYTES_PER_PIXEL = 16
"""Its decoder holds two canvases beside the image and its copy."""
_COEFFICIENT_BYTES = 2


class Header(NamedTuple):
    """What is known of an image before it is decoded."""

    form: str
    """Pillow's name of the format."""
    width: int
    """Of the file, not turned upright."""
    height: int
    decoded_pixels: int
    memory_bytes: int
    """At most, of decoding it."""


def prepare(image: Image.Image) -> Header:
    """Look at an opened image, and let its decoder reduce it where it is a large JPEG."""
    form, (width, height) = image.format or "", image.size
    _reduce(image)
    pixels = image.width * image.height
    each = WEBP_BYTES_PER_PIXEL if form == "WEBP" else BYTES_PER_PIXEL
    return Header(form, width, height, pixels, each * pixels + _coefficients(image, width, height))


def _reduce(image: Image.Image) -> None:
    if image.format != "JPEG":
        return
    width, height = image.size
    divisor = 1
    while (
        divisor < 8
        and width * height > WHOLE_JPEG_PIXELS * divisor**2
        and min(width, height) >= LEAST_SIDE * 2 * divisor
    ):
        divisor *= 2
    if divisor > 1:
        image.draft(None, (width // divisor, height // divisor))


def _coefficients(image: Image.Image, width: int, height: int) -> int:
    """Bytes of a progressive JPEG's coefficients, which are kept whole, at full size."""
    if not isinstance(image, JpegImageFile) or not image.info.get("progressive"):
        return 0
    widest = max(across for _, across, _, _ in image.layer)
    highest = max(down for _, _, down, _ in image.layer)
    parts = sum(across * down for _, across, down, _ in image.layer)
    return _COEFFICIENT_BYTES * width * height * parts // (widest * highest)
