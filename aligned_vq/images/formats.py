"""The image formats that may be opened, and those that are unless others are asked for."""

from __future__ import annotations

from functools import cache

from PIL import Image

from aligned_vq.errors import InvalidInput

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""Endings of the names of image files, in lower case."""
DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP")
"""What cameras and screens write. Decoders of the others are further ways in, seldom asked for."""

DECODE_SECONDS = 1.9
"""Of one image, so that it is refused or done within 3 s, the wait for its turn included."""


@cache
def readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """Those that this build of Pillow knows; it refuses a list that names another."""
    Image.init()
    return tuple(name for name in formats if name in Image.OPEN)


def check_format(data: bytes, name: str, formats: tuple[str, ...]) -> None:
    """Look at a file's first bytes only.

    Args:
        data: the encoded file.
        name: of the image, for the message.
        formats: that may be opened.

    Raises:
        InvalidInput: it is of one of `FORMATS` that is not among them.
    """
    accepts = {known: Image.OPEN[known][1] for known in readable(FORMATS)}
    found = [known for known, accept in accepts.items() if accept and accept(data[:16])]
    if found and not set(found) & set(formats):
        raise InvalidInput(
            f"expected an image in one of {', '.join(formats)}, but {name} is {found[0]}: convert "
            f"it, or add {found[0]} to the setting image_formats"
        )
