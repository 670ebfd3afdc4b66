"""Image files as training reads them, and a folder of them as examples without questions."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NoReturn

from PIL import Image

from aligned_vq.data.examples import Example
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.formats import SUFFIXES
from aligned_vq.images.load import load_image


def open_image(path: Path, owner: str, remedy: str) -> Image.Image:
    """The image at `path` as `load_image` opens it, so that training sees the pixels that are
    served: upright 8-bit RGB.

    Args:
        path: An image file.
        owner: What needs it, to begin an error with: `file.json, record 3`.
        remedy: What to do where it is missing, to end that error with.

    Raises:
        ConfigError: There is no such file.
        InvalidInput: The file is not an image or is damaged.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
        raise ConfigError(f"{owner}: expected an image at {path}, found no such file; {remedy}")
    try:
        return load_image(path)
    except InvalidInput as error:
        raise InvalidInput(f"{owner}: {error}") from error


class ImageFolder:
    """Every image below a folder as an example without questions, ordered by path.

    Symbolic links are followed; names that begin with a dot are passed over.

    Raises:
        ConfigError: The folder is missing, unreadable or holds no image.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(_image_names(folder))
        if not self._names:
            raise ConfigError(
                f"expected images ({' '.join(SUFFIXES)}) below {folder}, found none; "
                "name a folder that holds some"
            )

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Image `index`, without questions; see `ExampleSource`."""
        path = self._folder / self._names[index]
        remedy = "it was there at the start: leave the folder alone while training"
        return Example(open_image(path, f"image {index}", remedy), ())


def _image_names(folder: Path) -> list[str]:
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
        f"expected a readable folder of images, got {error}; check path and permissions"
    ) from error
