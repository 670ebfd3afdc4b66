"""Blur of lens and movement. Images are float64 `[H, W, 3]` from 0 to 1; lengths are in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Image = NDArray[np.float64]


def defocus(image: Image, radius: float, edge_sigma: float) -> Image:
    """Every point becomes a disk with a soft edge."""
    reach = int(np.ceil(radius + 3 * edge_sigma))
    places = np.arange(-reach, reach + 1)
    disk = (places[:, None] ** 2 + places[None] ** 2 <= radius**2).astype(np.float64)
    return _filtered(image, ndimage.gaussian_filter(disk, edge_sigma))


def glass(image: Image, sigma: float, reach: int, rounds: int, rng: np.random.Generator) -> Image:
    """Every pixel is taken from at most `reach` pixels away, `rounds` times, between two blurs."""
    blurred = ndimage.gaussian_filter(image, (sigma, sigma, 0))
    height, width = image.shape[:2]
    rows, columns = np.mgrid[:height, :width]
    for _ in range(rounds):
        moved_rows = rows + rng.integers(-reach, reach + 1, rows.shape)
        moved_columns = columns + rng.integers(-reach, reach + 1, rows.shape)
        blurred = blurred[moved_rows.clip(0, height - 1), moved_columns.clip(0, width - 1)]
    result: Image = ndimage.gaussian_filter(blurred, (sigma, sigma, 0))
    return result


def motion(image: Image, radius: float, sigma: float, rng: np.random.Generator) -> Image:
    """The camera moves along a line at up to 45 degrees to the horizon, and brakes."""
    reach = int(np.ceil(radius))
    angle = np.deg2rad(rng.uniform(-45, 45))
    kernel = np.zeros((2 * reach + 1, 2 * reach + 1))
    # Four places a pixel, so that the line has no gaps.
    along = np.arange(0, reach + 0.25, 0.25)
    rows = np.rint(reach + along * np.sin(angle)).astype(int)
    columns = np.rint(reach + along * np.cos(angle)).astype(int)
    np.add.at(kernel, (rows, columns), np.exp(-(along**2) / (2 * sigma**2)))
    return _filtered(image, kernel)


def zoom(image: Image, largest: float, step: float) -> Image:
    """The mean of the image and its enlargements, up to a factor."""
    factors = np.arange(1, largest, step)
    height, width = image.shape[:2]
    total = image.copy()
    for factor in factors:
        rows = (np.arange(height) - (height - 1) / 2) / factor + (height - 1) / 2
        columns = (np.arange(width) - (width - 1) / 2) / factor + (width - 1) / 2
        places = np.meshgrid(rows, columns, indexing="ij")
        for channel in range(image.shape[2]):
            total[..., channel] += ndimage.map_coordinates(
                image[..., channel], places, order=1, mode="nearest"
            )
    zoomed: Image = total / (len(factors) + 1)
    return zoomed


def _filtered(image: Image, kernel: NDArray[np.float64]) -> Image:
    """Each channel convolved with a kernel, whose sum becomes 1."""
    whole = kernel / kernel.sum()
    filtered: Image = ndimage.convolve(image, whole[:, :, None], mode="reflect")
    return filtered
