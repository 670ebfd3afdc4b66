"""Loading of training images, and a folder of images as examples without questions."""

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
    """The image at `path`, upright 8-bit RGB, loaded as images of requests are.

    Args:
        path: An image file.
        owner: Start of error messages: what refers to the image, such as `file.json, record 3`.
        remedy: End of the error message for a missing file.

    Raises:
        ConfigError: The file does not exist.
        InvalidInput: The file is not an image or is damaged.
    """
    if not os.path.isfile(path):  # unlike Path.is_file, never raises
        raise ConfigError(f"{owner}: expected an image at {path}, found no such file; {remedy}")
    try:
        return load_image(path)
    except InvalidInput as error:
        raise InvalidInput(f"{owner}: {error}") from error


class ImageFolder:
    """All images below a folder, ordered by path, as examples without questions.

    Symbolic links are followed; names that start with a dot are skipped.

    Raises:
        ConfigError: The folder does not exist, cannot be read, or has no image in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._names = sorted(_image_names(folder))
        if not self._names:
            raise ConfigError(
                f"expected images ({' '.join(SUFFIXES)}) below {folder}, found none; "
                "name a folder with images"
            )

    def __len__(self) -> int:
        """Number of images."""
        return len(self._names)

    def __getitem__(self, index: int) -> Example:
        """Image `index`, without questions; see `ExampleSource`."""
        path = self._folder / self._names[index]
        remedy = "it existed at the start: do not change the folder while training"
        return Example(open_image(path, f"image {index}", remedy), ())


def _image_names(folder: Path) -> list[str]:
    names: list[str] = []
    visited: set[str] = set()
    for root, folders, files in os.walk(folder, onerror=_raise_unreadable, followlinks=True):
        real = os.path.realpath(root)
        # Links may form a cycle: every real folder is visited once, in a deterministic order.
        folders[:] = [] if real in visited else sorted(n for n in folders if not n.startswith("."))
        if real not in visited:
            names += (
                os.path.relpath(os.path.join(root, name), folder)
                for name in files
                if not name.startswith(".") and name.lower().endswith(SUFFIXES)
            )
        visited.add(real)
    return names


def _raise_unreadable(error: OSError) -> NoReturn:
    raise ConfigError(
        f"expected a readable folder of images, got {error}; check path and permissions"
    ) from error
