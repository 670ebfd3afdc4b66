"""What processing does to images. They are float64 `[H, W, 3]` from 0 to 1; lengths in pixels."""

from __future__ import annotations

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from scipy import ndimage

Image = NDArray[np.float64]


def contrast(image: Image, share: float) -> Image:
    """This share of each channel's difference from its mean."""
    means = image.mean((0, 1), keepdims=True)
    flatter: Image = means + share * (image - means)
    return flatter


def elastic(image: Image, reach: float, sigma: float, rng: np.random.Generator) -> Image:
    """Every pixel is taken from up to `reach` away; shifts vary over about `sigma`."""
    height, width = image.shape[:2]
    shifts = []
    for _ in range(2):
        field = ndimage.gaussian_filter(rng.uniform(-1, 1, (height, width)), sigma)
        shifts.append(reach * field / max(np.abs(field).max(), 1e-9))
    rows, columns = np.mgrid[:height, :width]
    places = [rows + shifts[0], columns + shifts[1]]
    moved = [
        ndimage.map_coordinates(image[..., channel], places, order=1, mode="reflect")
        for channel in range(image.shape[2])
    ]
    return np.stack(moved, 2)


def pixelate(image: Image, share: float) -> Image:
    """As if this share of the rows and columns had been stored."""
    height, width = image.shape[:2]
    whole = PillowImage.fromarray(_bytes(image))
    small = whole.resize(
        (max(1, round(width * share)), max(1, round(height * share))), PillowImage.Resampling.BOX
    )
    return np.asarray(small.resize((width, height), PillowImage.Resampling.NEAREST)) / 255.0


def jpeg(image: Image, quality: int) -> Image:
    """Stored as JPEG."""
    buffer = io.BytesIO()
    PillowImage.fromarray(_bytes(image)).save(buffer, "JPEG", quality=quality)
    return np.asarray(PillowImage.open(buffer)) / 255.0


def _bytes(image: Image) -> NDArray[np.uint8]:
    pixels: NDArray[np.uint8] = np.rint(255 * image.clip(0, 1)).astype(np.uint8)
    return pixels
