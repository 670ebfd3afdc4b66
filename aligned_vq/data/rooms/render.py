"""Casts a room's image: colour and depth of every pixel, and the object it shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.rooms.camera import Camera
from aligned_vq.data.rooms.materials import Material
from aligned_vq.data.rooms.solids import Floats, Solid, Vector, intersect

WALLS = -1
_SURFACES = ("left", "right", "front", "back", "floor", "ceiling")


@dataclass(frozen=True)
class Furniture:
    """An object in a room, by its name, with the solids it is made of."""

    name: str
    solids: tuple[Solid, ...]


@dataclass(frozen=True)
class Light:
    """A lamp at `position`; `ambient` is the share of light that comes from everywhere."""

    position: Vector
    ambient: float
    exposure: float


@dataclass(frozen=True)
class Room:
    """A furnished room from (0, 0, 0) to `size`, metres.

    The palette has a material for each of the solids', and for "left", "right", "front", "back",
    "floor" and "ceiling".
    """

    kind: str
    size: Vector
    furniture: tuple[Furniture, ...]
    palette: Mapping[str, Material]
    light: Light


@dataclass(frozen=True)
class RoomImages:
    """Images `[H, W]` of one camera; `rgb` is `[H, W, 3]`."""

    rgb: NDArray[np.uint8]
    depth_m: Floats
    """Metres along the viewing axis, without a sensor's errors."""
    celsius: Floats
    """Temperature of what is seen."""
    owner: NDArray[np.int16]
    """Index of the furniture that is seen; `WALLS`: none."""


def render(room: Room, camera: Camera, rng: np.random.Generator) -> RoomImages:
    """The room as `camera` sees it, with the sensor noise of a colour camera from `rng`."""
    rays = camera.rays()
    surfaces = _Surfaces(room, camera.position, rays)
    owned = [(n, solid) for n, item in enumerate(room.furniture) for solid in item.solids]
    windows = camera.windows([solid for _, solid in owned])
    for (number, solid), window in zip(owned, windows, strict=True):
        if window is not None:
            surfaces.add(number, solid, window)
    colour = surfaces.lit()
    noise = rng.normal(0, rng.uniform(0.004, 0.03), colour.shape).astype(np.float32)
    # Gamma 2.2 as cameras apply it; noise grows in the dark.
    encoded = np.clip(colour, 0, 1) ** np.float32(1 / 2.2) + noise
    return RoomImages(
        (np.clip(encoded, 0, 1) * 255).round().astype(np.uint8),
        surfaces.depth,
        surfaces.celsius,
        surfaces.owner,
    )


class _Surfaces:
    """The nearest surface of every pixel so far."""

    def __init__(self, room: Room, origin: Vector, rays: Floats) -> None:
        self._room, self._origin, self._rays = room, origin, rays
        start = np.array(origin, np.float32)
        safe = np.where(np.abs(rays) < 1e-6, 1e-6, rays)  # no division by 0
        # The wall, floor or ceiling that a ray approaches on each axis. Of the same sign as the
        # divisor: a ray along a wall would else leave the room behind the camera.
        bounds = np.where(safe > 0, np.array(room.size, np.float32), 0)
        exits = (bounds - start) / safe
        # The camera is inside, so the nearest of the three ends the ray.
        axis = exits.argmin(-1)
        self.depth: Floats = exits.min(-1).astype(np.float32)
        self.owner = np.full(self.depth.shape, WALLS, np.int16)
        points = start + rays * self.depth[..., None]
        ahead = np.take_along_axis(rays, axis[..., None], -1)[..., 0] > 0
        # Normals point into the room.
        self._normals = -np.eye(3, dtype=np.float32)[axis] * np.where(ahead, 1, -1)[..., None]
        self._colour = np.zeros_like(rays)
        self._emits = np.zeros_like(self.depth)
        self.celsius = np.zeros_like(self.depth)
        for number, name in enumerate(_SURFACES):
            # `_SURFACES` lists the near and the far surface of each axis.
            here = (axis == number // 2) & (ahead == _is_far(number))
            material = room.palette[name]
            self._colour[here] = material.shade(points[here], self._normals[here])
            self.celsius[here] = material.celsius

    def add(self, number: int, solid: Solid, window: tuple[slice, slice]) -> None:
        """Draw a solid over what lies behind it."""
        hits = intersect(solid, self._origin, self._rays[window])
        nearer = hits.distance < self.depth[window]
        if not nearer.any():
            return
        material = self._room.palette[solid.material]
        # Slices give views, so the masks write into the images.
        self.depth[window][nearer] = hits.distance[nearer]
        self.owner[window][nearer] = number
        self._normals[window][nearer] = hits.normal[nearer]
        self._emits[window][nearer] = material.emits
        self.celsius[window][nearer] = material.celsius
        # In the solid's coordinates, so that patterns move with it.
        self._colour[window][nearer] = material.shade(hits.local[nearer], hits.normal[nearer])

    def lit(self) -> Floats:
        """Linear colours `[H, W, 3]` under the room's light: diffuse, falling with distance."""
        light = self._room.light
        points = np.array(self._origin, np.float32) + self._rays * self.depth[..., None]
        towards = np.array(light.position, np.float32) - points
        distance = np.linalg.norm(towards, axis=-1) + 1e-3  # no division by 0
        facing = np.clip((self._normals * towards).sum(-1) / distance, 0, 1)
        diffuse = (1 - light.ambient) * facing / (1 + 0.08 * distance**2)
        # Surfaces that face upwards receive more of the ambient light.
        bright = light.exposure * (light.ambient * (0.8 + 0.2 * self._normals[..., 2]) + diffuse)
        total = bright * (1 - self._emits) + self._emits
        lit: Floats = (self._colour * total[..., None]).astype(np.float32)
        return lit


def _is_far(number: int) -> bool:
    """Whether a surface lies at the room's far end of its axis."""
    return _SURFACES[number] in ("right", "back", "ceiling")
