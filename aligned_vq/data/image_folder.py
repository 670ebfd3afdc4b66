"""Picture files as upright RGB, and a folder of them as examples without questions.

What `aligned_vq.images.load` does to a picture is done here too, so that a model is trained on the
pixels it will be served: EXIF orientation applied, transparency composited onto white.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import NoReturn

from PIL import Image, ImageOps

from aligned_vq.data.examples import Example
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.pillow_errors import PILLOW_ERRORS

# Plain raster formats only: PostScript, for one, Pillow hands to an outside program.
_FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "JPEG2000", "PNG", "PPM", "TIFF", "WEBP")
SUFFIXES = (
    ".avif",
    ".bmp",
    ".gif",
    ".jp2",
    ".jpeg",
    ".jpg",
    ".png",
    ".ppm",
    ".tif",
    ".tiff",
    ".webp",
)
"""What the names of pictures end with, whatever the case."""
_DEEP = ("F", "I", "I;16", "I;16B", "I;16L", "I;16N")

_REFUSED = (Image.DecompressionBombError, *PILLOW_ERRORS)


def open_picture(path: Path, owner: str, remedy: str) -> Image.Image:
    """The picture at `path`, upright, 8-bit RGB, decoded, without metadata.

    Args:
        path: A picture file; of an animation, the first frame is taken.
        owner: What asks for it, to begin an error with: `file.json, record 3`.
        remedy: What to do where it is missing, to end that error with.

    Raises:
        ConfigError: There is no such file.
        InvalidInput: The file is not a picture, is damaged, or has more than 8 bits a channel.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
        raise ConfigError(f"{owner}: expected a picture at {path}, found no such file; {remedy}")
    try:
        with Image.open(path, formats=_readable_formats()) as image:
            image.load()
            return _to_rgb(image)
    except _REFUSED as error:
        raise InvalidInput(
            f"{owner}: expected a whole picture in one of {', '.join(_FORMATS)} at {path}, but it "
            f"is truncated, damaged or of another kind ({error}); fetch it again or take it out"
        ) from error


class PictureFolder:
    """Every picture below a folder as an example without questions, ordered by path.

    Symbolic links are followed; names that begin with a dot are passed over.

    Raises:
        ConfigError: The folder is missing, unreadable or holds no picture.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(_picture_names(folder))
        if not self._names:
            raise ConfigError(
                f"expected pictures ({' '.join(SUFFIXES)}) below {folder}, found none; "
                "name a folder that holds some"
            )

    def __len__(self) -> int:
        """How many pictures there are."""
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Picture `index`, without questions; see `ExampleSource`."""
        path = self._folder / self._names[index]
        remedy = "it was there at the start: leave the folder alone while training"
        return Example(open_picture(path, f"picture {index}", remedy), ())


def _picture_names(folder: Path) -> list[str]:
    names: list[str] = []
    seen: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_refuse, followlinks=True):
        real = os.path.realpath(root)
        # A link may lead back up: walk every real folder once, in an order that repeats.
        folders[:] = [] if real in seen else sorted(n for n in folders if not n.startswith("."))
        if real not in seen:
            names += (
                os.path.relpath(os.path.join(root, name), folder)
                for name in files
                if not name.startswith(".") and name.lower().endswith(SUFFIXES)
            )
        seen.add(real)
    return names


def _refuse(error: OSError) -> NoReturn:
    raise ConfigError(
        f"expected a readable folder of pictures, got {error}; check path and permissions"
    ) from error


@cache
def _readable_formats() -> tuple[str, ...]:
    """The formats this build of Pillow knows; it refuses a list that names another."""
    Image.init()
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in _DEEP:
        raise ValueError(f"more than 8 bits a channel, mode {image.mode}")
    try:
        upright = ImageOps.exif_transpose(image)
    except _REFUSED:  # an unreadable EXIF block does not spoil the picture
        upright = image
    if "A" in upright.getbands() or upright.info.get("transparency") is not None:
        upright = upright.convert("RGBA")
        white = Image.new("RGBA", upright.size, (255, 255, 255, 255))
        upright = Image.alpha_composite(white, upright)
    rgb = upright.convert("RGB")
    rgb.info = {}  # else a later reader might turn it again
    return rgb
