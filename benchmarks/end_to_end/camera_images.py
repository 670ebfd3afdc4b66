"""Images as large as a camera's: photographs of at least four megapixels.

The photographs in Python packages are smaller, and an enlarged one has a JPEG unlike any camera's.
Debian's package `lomiri-wallpapers-16.04` has photographs of 4.5 to 16 megapixels under free
licences. They are JPEG files already: the decoded image is smoother than the output of a sensor, so
its JPEG is smaller, which favours the JPEG baseline. Any other image file can be used instead.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from PIL import Image

from aligned_vq.errors import ConfigError
from aligned_vq.images.load import load_image

FOLDER = Path("/usr/share/backgrounds")
PACKAGE = "lomiri-wallpapers-16.04"
QUALITY = 90


@dataclass(frozen=True)
class CameraImage:
    """A decoded image, and its size as a JPEG file."""

    name: str
    image: Image.Image
    jpeg_bytes: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.image.width * self.image.height / 1e6

    @property
    def bytes_a_pixel(self) -> float:
        """Bytes of the JPEG file for each pixel."""
        return self.jpeg_bytes / self.image.width / self.image.height


# Every round asks about the same images, and decoding one takes long at this size.
@cache
def camera_image(name: str) -> CameraImage:
    """The image in the file `name`, or in the file of that name in the package's folder.

    Raises:
        ConfigError: there is no such file.
        InvalidInput: the file is not an image.
    """
    path = Path(name)
    path = path if path.is_file() else FOLDER / name
    if not path.is_file():
        raise ConfigError(
            f"expected an image at {name!r} or in {FOLDER}, got none; give a file, or "
            f"`apt-get install {PACKAGE}`"
        )
    image = load_image(path)
    return CameraImage(path.name, image, len(jpeg(image)))


def jpeg(image: Image.Image) -> bytes:
    """A JPEG file of quality 90, with Pillow's defaults otherwise."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=QUALITY)
    return buffer.getvalue()
