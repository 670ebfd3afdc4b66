"""What other cameras make of a view: a depth camera's millimetres, a thermal camera's greys."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.rooms.render import RoomImages

DEPTH_RANGE_M = (0.35, 8.0)
"""Of depth cameras with structured light; nearer and farther pixels have no depth."""
_EDGE_RATIO = 0.06
"""Of depths beside each other: more is an edge, where projector and camera see different things."""
_THERMAL_NOISE_C = 0.15
_THERMAL_PERCENTILES = (1.0, 99.0)


def depth_camera(rendering: RoomImages, rng: np.random.Generator) -> NDArray[np.uint16]:
    """Depth of a room in millimetres `[H, W]`; 0 where there is none.

    Beside the errors of `measured_mm`, mirrors and glass leave holes in patches.
    """
    millimetres = measured_mm(rendering.depth_m, rng)
    millimetres[_patches(millimetres.shape, rng)] = 0
    return millimetres


def measured_mm(true: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint16]:
    """What a depth camera measures of depths in metres `[H, W]`: millimetres, 0 where nothing.

    Noise grows with the square of the distance: sigma = 1.2 mm + 1.9 mm / m^2 (z - 0.4 m)^2, as
    Nguyen, Izadi and Lovell measured for Kinect (3DIMPVT 2012). Edges have holes, as have single
    pixels.
    """
    sigma = 0.0012 + 0.0019 * (true - 0.4) ** 2
    measured = true + sigma * rng.standard_normal(true.shape)
    # Disparity is quantised, so steps grow with the square of the distance, too.
    step = 0.0015 * np.maximum(true, 0.5) ** 2
    measured = np.round(measured / step) * step
    low, high = DEPTH_RANGE_M
    valid = (true > low) & (true < high)
    valid &= ~(_edges(true) & (rng.random(true.shape) < 0.6))
    valid &= rng.random(true.shape) > rng.uniform(0.002, 0.03)
    return np.where(valid, np.round(1000 * measured), 0).clip(0, 65_535).astype(np.uint16)


def thermal_camera(celsius: NDArray[Any], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Greys `[H, W]` of the temperatures between two percentiles of the image, as cheap thermal
    cameras show them: blurred by half the resolution, with noise and a warm corner of the lens."""
    celsius = celsius + rng.normal(0, _THERMAL_NOISE_C, celsius.shape)
    # Walls are not of one temperature: warmer below the ceiling.
    height, width = celsius.shape
    celsius = celsius + np.linspace(0.8, -0.8, height)[:, None]
    # Of an even size; the last row and column are padded below.
    coarse = celsius[: height // 2 * 2, : width // 2 * 2]
    coarse = coarse.reshape(height // 2, 2, width // 2, 2).mean((1, 3))  # means of 2 x 2
    blurred = np.repeat(np.repeat(_smooth(coarse), 2, 0), 2, 1)
    full = np.pad(blurred, ((0, height % 2), (0, width % 2)), "edge")
    y, x = np.mgrid[-1 : 1 : height * 1j, -1 : 1 : width * 1j]
    full = full + rng.uniform(0, 0.6) * (x * x + y * y)
    low, high = np.percentile(full, _THERMAL_PERCENTILES)
    # At least 1 degree, so that noise is not amplified in a uniform image.
    scaled = (full - low) / max(high - low, 1.0)
    grey: NDArray[np.uint8] = (255 * np.clip(scaled, 0, 1)).round().astype(np.uint8)
    return grey


def _edges(depth: NDArray[Any]) -> NDArray[np.bool_]:
    """Pixels whose left or upper neighbour is at another depth, and their neighbours."""
    edge = np.zeros(depth.shape, np.bool_)
    # A difference of logarithms is a ratio of depths.
    logarithm = np.log(depth)
    across = np.abs(np.diff(logarithm, axis=1)) > _EDGE_RATIO
    edge[:, 1:] |= across
    edge[:, :-1] |= across
    down = np.abs(np.diff(logarithm, axis=0)) > _EDGE_RATIO
    edge[1:] |= down
    edge[:-1] |= down
    return edge


def _patches(shape: tuple[int, ...], rng: np.random.Generator) -> NDArray[np.bool_]:
    """A few ellipses without depth: reflections and dark surfaces."""
    holes = np.zeros(shape, np.bool_)
    y, x = np.mgrid[: shape[0], : shape[1]]
    for _ in range(int(rng.integers(0, 4))):
        centre, radius = rng.uniform(0, shape, 2), rng.uniform(0.02, 0.09, 2) * shape[0]
        holes |= ((y - centre[0]) / radius[0]) ** 2 + ((x - centre[1]) / radius[1]) ** 2 < 1
    return holes


def _smooth(image: NDArray[Any]) -> NDArray[Any]:
    """A 3 x 3 mean."""
    padded = np.pad(image, 1, "edge")
    rows = padded[:-2] + padded[1:-1] + padded[2:]
    mean: NDArray[Any] = (rows[:, :-2] + rows[:, 1:-1] + rows[:, 2:]) / 9
    return mean
