"""Reduced decoding of large JPEGs, and the memory that decoding an image needs.

libjpeg can decode a JPEG at 1/2, 1/4 or 1/8 of its width and height, in less time and memory.
Vision towers receive about 336 x 336 pixels, so large JPEGs are decoded this way.
"""

from __future__ import annotations

from typing import NamedTuple

from PIL import Image
from PIL.JpegImagePlugin import JpegImageFile

WHOLE_JPEG_PIXELS = 33 * 2**18
"""Larger JPEGs are decoded at a reduced size of at most this. Images of 8-megapixel cameras and of
screens of 3840 x 2160 are decoded at full size."""
MIN_SIDE = 512
"""Least length in pixels of the shorter side after reduction, more than vision towers use."""

BYTES_PER_PIXEL = 8
"""Twice Pillow's 4, for a second copy while an image is rotated or converted from CMYK."""
WEBP_BYTES_PER_PIXEL = 16
"""libwebp's animation decoder holds two canvases in addition to the image and its copy."""
_COEFFICIENT_BYTES = 2


class Header(NamedTuple):
    """Properties of an encoded image that are known before it is decoded."""

    form: str
    """Pillow's name of the format."""
    width: int
    """As stored, before the EXIF orientation is applied."""
    height: int
    decoded_pixels: int
    memory_bytes: int
    """Upper bound of the memory that decoding needs."""
    mode: str
    """Pillow's mode."""


def prepare(image: Image.Image) -> Header:
    """The header of an opened image, whose decoder is set to reduce a large JPEG."""
    form, mode, (width, height) = image.format or "", image.mode, image.size
    _reduce(image)
    # `draft` changes the size that the image reports.
    pixels = image.width * image.height
    pixel_bytes = WEBP_BYTES_PER_PIXEL if form == "WEBP" else BYTES_PER_PIXEL
    memory_bytes = pixel_bytes * pixels + _coefficient_bytes(image, width, height)
    return Header(form, width, height, pixels, memory_bytes, mode)


def _reduce(image: Image.Image) -> None:
    if image.format != "JPEG":
        return
    width, height = image.size
    divisor = 1
    while (
        divisor < 8
        and width * height > WHOLE_JPEG_PIXELS * divisor**2
        and min(width, height) >= MIN_SIDE * 2 * divisor  # of the next divisor
    ):
        divisor *= 2
    if divisor > 1:
        image.draft(None, (width // divisor, height // divisor))


def _coefficient_bytes(image: Image.Image, width: int, height: int) -> int:
    """Bytes of a progressive JPEG's coefficients, which libjpeg stores at full size."""
    if not isinstance(image, JpegImageFile) or not image.info.get("progressive"):
        return 0
    # Of each component (identifier, horizontal and vertical sampling factor, table).
    max_horizontal = max(horizontal for _, horizontal, _, _ in image.layer)
    max_vertical = max(vertical for _, _, vertical, _ in image.layer)
    samples = sum(horizontal * vertical for _, horizontal, vertical, _ in image.layer)
    return _COEFFICIENT_BYTES * width * height * samples // (max_horizontal * max_vertical)
