"""Pictures as a camera gives them: photographs of at least four megapixels.

The photographs in Python packages are smaller, and enlarging one would make a JPEG that no camera
makes. Debian's package `lomiri-wallpapers-16.04` has photographs of 4.5 to 16 megapixels under free
licences. They are JPEG files already, so what is encoded here is smoother than a sensor's own
output and its JPEG smaller, to the advantage of whoever sends JPEGs. Any other file does as well.
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
class CameraFrame:
    """A picture in memory, and the size of it as a JPEG."""

    name: str
    image: Image.Image
    jpeg_bytes: int

    @property
    def megapixels(self) -> float:
        """Millions of pixels."""
        return self.image.width * self.image.height / 1e6

    @property
    def bytes_a_pixel(self) -> float:
        """Of the JPEG."""
        return self.jpeg_bytes / self.image.width / self.image.height


@cache
def frame(name: str) -> CameraFrame:
    """The picture in a file, or of that name in the folder of the package.

    Raises:
        ConfigError: there is no such file.
        InvalidInput: it is no picture.
    """
    path = Path(name)
    path = path if path.is_file() else FOLDER / name
    if not path.is_file():
        raise ConfigError(
            f"expected a picture at {name!r} or in {FOLDER}, got none; give a file, or "
            f"`apt-get install {PACKAGE}`"
        )
    image = load_image(path)
    return CameraFrame(path.name, image, len(jpeg(image)))


def jpeg(image: Image.Image) -> bytes:
    """A JPEG file of quality 90, with Pillow's defaults otherwise."""
    written = io.BytesIO()
    image.save(written, "JPEG", quality=QUALITY)
    return written.getvalue()
