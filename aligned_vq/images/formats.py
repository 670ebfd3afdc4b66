"""Supported image formats, the default selection, and the check of a file's format."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

from PIL import Image

from aligned_vq.errors import ConfigError, InvalidInput

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    *(".avif", ".bmp", ".gif", ".jp2", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif"),
    *(".tiff", ".webp"),
)
"""File name suffixes of image files, in lower case."""
DEFAULT_FORMATS = ("JPEG", "PNG", "WEBP")
"""What cameras and screens write. Every further decoder enlarges the attack surface."""

DECODE_SECONDS = 1.9
"""Time limit of decoding one image; with the wait for a slot, a request takes less than 3 s."""


@cache
def readable(formats: tuple[str, ...]) -> tuple[str, ...]:
    """The formats that this build of Pillow supports; `Image.open` rejects unsupported names."""
    Image.init()  # registers all plugins in `Image.OPEN`
    return tuple(name for name in formats if name in Image.OPEN)


def check_formats(names: Sequence[str]) -> None:
    """ConfigError unless these are some of `FORMATS`."""
    listed = [names] if isinstance(names, str) else list(names)
    unknown = [str(name) for name in listed if name not in FORMATS]
    if unknown or not listed or isinstance(names, str):
        raise ConfigError(
            f"expected image_formats from {', '.join(FORMATS)}, got "
            f"{', '.join(unknown) or repr(names)}; list some of these"
        )


def check_format(data: bytes, name: str, formats: tuple[str, ...]) -> None:
    """Check the format of an encoded image by its first bytes.

    Args:
        data: the encoded file.
        name: of the image, for the message.
        formats: that are allowed.

    Raises:
        InvalidInput: the file is of one of `FORMATS` that is not allowed.
    """
    # `Image.OPEN` holds a factory and a function that examines the first bytes.
    detectors = {format_: Image.OPEN[format_][1] for format_ in readable(FORMATS)}
    # As many bytes as `Image.open` examines.
    matches = [format_ for format_, accept in detectors.items() if accept and accept(data[:16])]
    if matches and not set(matches) & set(formats):
        raise InvalidInput(
            f"expected an image in one of {', '.join(formats)}, but {name} is {matches[0]}: "
            f"convert it, or add {matches[0]} to the setting image_formats"
        )
