"""Scenes of the reference world as a depth camera and a thermal camera see them.

Every object is a slightly tilted plane in front of those behind it, and the background is a wall.
Distances and temperatures are drawn from the scene's seed by generators of their own: images in
colour do not change, and what these cameras see says nothing about colours.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.rooms.sensors import measured_mm, thermal_camera
from aligned_vq.data.scenes.scene import IMAGE_SIZE_PX, Scene
from aligned_vq.images.modality import Pixels

NEAREST_M, FARTHEST_M = 0.7, 4.0
"""All distances lie between them: a fixed range of greys for this world."""
_WALL_M = (2.6, 3.8)
_STEP = (0.78, 0.9)
"""Distance of a plane over that of the plane behind it."""
_TILT = 0.015
"""Maximum change of a plane's distance from its centre to its border, as a share."""
_BACKGROUND_C = (16.0, 22.0)
_STEP_C = 4.0
"""Degrees between the objects of a scene, and between the coldest and the background."""
_DEPTH, _INFRARED = 1, 2
"""Seeds beside the scene's."""


def depth_image(scene: Scene, object_map: NDArray[np.int8]) -> Pixels:
    """What a depth camera measures of a scene: uint16 millimetres `[H, W, 1]`, 0: nothing.

    Args:
        scene: with objects from back to front.
        object_map: of its `Rendering`.
    """
    rng = _rng(scene, _DEPTH)
    yy, xx = np.mgrid[0:IMAGE_SIZE_PX, 0:IMAGE_SIZE_PX].astype(np.float32)
    centre = IMAGE_SIZE_PX / 2
    distance = rng.uniform(*_WALL_M)
    depth = _plane((xx - centre) / centre, (yy - centre) / centre, distance, rng)
    for number, item in enumerate(scene.objects):
        distance *= rng.uniform(*_STEP)
        across, down = (xx - item.x_px) / item.radius_px, (yy - item.y_px) / item.radius_px
        plane = _plane(across, down, distance, rng)
        shown = object_map == number
        depth[shown] = plane[shown]
    return Pixels(measured_mm(depth, rng)[:, :, None], "depth")


def infrared_image(scene: Scene, object_map: NDArray[np.int8]) -> Pixels:
    """What a thermal camera shows of a scene: uint8 `[H, W, 1]`, warm is bright.

    Objects are warmer than the background and differ in temperature; arguments as `depth_image`.
    """
    rng = _rng(scene, _INFRARED)
    background = rng.uniform(*_BACKGROUND_C)
    levels = rng.permutation(len(scene.objects)) + 1 + rng.uniform(-0.2, 0.2, len(scene.objects))
    # The map has -1 for the background: the last entry of the table.
    table = np.append(background + _STEP_C * levels, background)
    return Pixels(thermal_camera(table[object_map], rng)[:, :, None], "infrared")


def _rng(scene: Scene, camera: int) -> np.random.Generator:
    return np.random.default_rng([scene.texture_seed, camera])


def _plane(
    across: NDArray[np.float32],
    down: NDArray[np.float32],
    distance_m: float,
    rng: np.random.Generator,
) -> NDArray[np.float32]:
    """Distances of a tilted plane; positions are 0 at its centre and within -1 to 1 on it."""
    # In both directions together at most `_TILT`, so that planes do not cut through each other.
    tilt = rng.uniform(-_TILT / 2, _TILT / 2, 2)
    tilted: NDArray[np.float32] = np.float32(distance_m) * (
        1 + np.float32(tilt[0]) * across + np.float32(tilt[1]) * down
    )
    return tilted
