"""Noise of the sensor: Gaussian, shot and impulse. Images are float64 `[H, W, 3]` from 0 to 1."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.float64]


def gaussian(image: Image, sigma: float, rng: np.random.Generator) -> Image:
    """Noise of standard deviation `sigma` in every channel of every pixel."""
    return image + rng.normal(0, sigma, image.shape)


def shot(image: Image, photons: float, rng: np.random.Generator) -> Image:
    """Counts of light, `photons` for a white pixel."""
    counted: Image = rng.poisson(image * photons) / photons
    return counted


def impulse(image: Image, share: float, rng: np.random.Generator) -> Image:
    """This share of the values become 0 or 1."""
    hit = rng.random(image.shape)
    noisy: Image = np.where(hit < share / 2, 0.0, np.where(hit > 1 - share / 2, 1.0, image))
    return noisy
