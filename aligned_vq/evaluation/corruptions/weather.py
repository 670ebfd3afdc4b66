"""Weather and light. Images are float64 `[H, W, 3]` from 0 to 1; lengths are in pixels."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from aligned_vq.evaluation.corruptions.blur import motion

Image = NDArray[np.float64]
_GREY = np.array([0.299, 0.587, 0.114])


def snow(
    image: Image, density: float, length: float, share: float, rng: np.random.Generator
) -> Image:
    """Flakes that the wind blurs, before a scene whose colours the white light takes away.

    Args:
        image: the scene.
        density: share of the pixels where a flake starts.
        length: of a flake's trace.
        share: of the scene's own light that is left.
        rng: places flakes and wind.
    """
    height, width = image.shape[:2]
    flakes = ndimage.gaussian_filter((rng.random((height, width)) < density).astype(float), 0.7)
    flakes = (flakes / max(flakes.max(), 1e-9))[:, :, None].repeat(3, 2)
    traces = motion(flakes, length, length / 2, rng)
    traces = 0.9 * (traces / max(traces.max(), 1e-9)) ** 0.5
    grey = (image @ _GREY)[:, :, None]
    white = np.maximum(image, grey * 1.5 + 0.5)
    whole: Image = share * image + (1 - share) * white + traces + traces[::-1, ::-1]
    return whole


def frost(image: Image, scene: float, ice: float, rng: np.random.Generator) -> Image:
    """Ice crystals on the lens: ridges of a fractal. ImageNet-C uses photographs of frost instead.

    Args:
        image: what is behind.
        scene: weight of the scene.
        ice: weight of the ice.
        rng: of the crystals.
    """
    height, width = image.shape[:2]
    ridges = 1 - np.abs(2 * clouds(height, width, 1.7, rng) - 1)
    crystals = ridges**3 + 0.4 * clouds(height, width, 2.2, rng)
    frozen: Image = scene * image + ice * crystals[:, :, None] * np.array([0.75, 0.87, 0.95])
    return frozen


def fog(image: Image, amount: float, decay: float, rng: np.random.Generator) -> Image:
    """Clouds before the scene, dimmed so that white stays white.

    Args:
        image: the scene.
        amount: brightness of the densest fog, relative to white.
        decay: how much weaker each finer structure of the clouds is.
        rng: of the clouds.
    """
    height, width = image.shape[:2]
    brightest = float(image.max())
    foggy = image + amount * clouds(height, width, decay, rng)[:, :, None]
    dimmed: Image = foggy * (brightest / (brightest + amount))
    return dimmed


def brightness(image: Image, added: float) -> Image:
    """More light: the value of each pixel's hue, saturation and value grows by `added`."""
    value = image.max(2, keepdims=True)
    scale = (value + added).clip(max=1) / np.maximum(value, 1e-6)
    # A black pixel has no hue: it becomes grey.
    brighter: Image = np.where(value > 0, image * scale, min(added, 1.0))
    return brighter


def clouds(height: int, width: int, decay: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """A fractal of noise `[H, W]` from 0 to 1: octaves, each finer and `decay` times weaker."""
    total = np.zeros((height, width))
    cells, weight = 2, 1.0
    while cells <= max(height, width):
        coarse = rng.uniform(-1, 1, (cells + 1, cells + 1))
        places = np.meshgrid(
            np.linspace(0, cells, height), np.linspace(0, cells, width), indexing="ij"
        )
        total += weight * ndimage.map_coordinates(coarse, places, order=1, mode="nearest")
        cells, weight = 2 * cells, weight / decay
    total -= total.min()
    largest = total.max()
    return total / largest if largest > 0 else total
