"""Solids that furniture is made of, and rays against them.

World coordinates are metres: x to the right, y into the room, z up. A solid may be turned about the
vertical axis only, which keeps intersections to slabs and circles.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Vector = tuple[float, float, float]
Floats = NDArray[np.floating[Any]]
_EPSILON = 1e-6
NO_HIT = np.float32(np.inf)
_SIGNS: Floats = np.array(list(itertools.product((-1, 1), repeat=3)), np.float32)
"""Of the eight corners of a box around the origin."""


@dataclass(frozen=True)
class Solid:
    """A box or an upright cylinder.

    Args:
        centre: metres.
        size: extents along the solid's x, y and z axis; a cylinder fills an ellipse of x and y.
        material: key of the scene's palette.
        yaw: radians about z, counter-clockwise from above.
        round: whether it is a cylinder.
    """

    centre: Vector
    size: Vector
    material: str
    yaw: float = 0.0
    round: bool = False


class Hits(NamedTuple):
    """Where rays meet a solid: distance along the ray `[...]` (infinite: nowhere), unit normals and
    points in the solid's coordinates, `[..., 3]` each."""

    distance: Floats
    normal: Floats
    local: Floats


def box(centre: Vector, size: Vector, material: str, yaw: float = 0.0) -> Solid:
    """A box; `centre` is that of its base."""
    x, y, z = centre
    return Solid((x, y, z + size[2] / 2), size, material, yaw)


def cylinder(centre: Vector, diameter: float, height: float, material: str) -> Solid:
    """An upright cylinder; `centre` is that of its base."""
    x, y, z = centre
    return Solid((x, y, z + height / 2), (diameter, diameter, height), material, round=True)


def placed(solids: Iterable[Solid], x: float, y: float, yaw: float) -> list[Solid]:
    """Solids around the origin, turned by `yaw` and moved to (x, y)."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    moved = []
    for solid in solids:
        left, forward, up = solid.centre
        centre = (x + left * cos - forward * sin, y + left * sin + forward * cos, up)
        moved.append(replace(solid, centre=centre, yaw=solid.yaw + yaw))
    return moved


def corners(solids: Sequence[Solid]) -> Floats:
    """The eight corners of the box around each of N solids, `[N, 8, 3]`, float32."""
    halves = np.array([solid.size for solid in solids], np.float32) / 2
    yaws = np.array([solid.yaw for solid in solids], np.float32)[:, None]
    local = _SIGNS * halves[:, None]
    cos, sin = np.cos(yaws), np.sin(yaws)
    x, y, z = np.moveaxis(local, -1, 0)
    turned = np.stack((x * cos - y * sin, x * sin + y * cos, z), axis=-1)
    centres = np.array([solid.centre for solid in solids], np.float32)
    world: Floats = turned + centres[:, None]
    return world


def intersect(solid: Solid, origin: Vector, directions: Floats) -> Hits:
    """The first point of each ray on the outside of a solid.

    Args:
        solid: any.
        origin: of all rays, outside the solid.
        directions: `[..., 3]`; distances are in their lengths.
    """
    cos, sin = math.cos(solid.yaw), math.sin(solid.yaw)
    # From world to solid coordinates: a rotation by -yaw.
    turn = np.array([[cos, sin, 0], [-sin, cos, 0], [0, 0, 1]], np.float32)
    start = turn @ (np.array(origin, np.float32) - np.array(solid.centre, np.float32))
    rays = directions @ turn.T
    half = np.array(solid.size, np.float32) / 2
    near, far, axis = _ellipse(start, rays, half) if solid.round else _slabs(start, rays, half)
    low, high = _slab(start[2], rays[..., 2], half[2])
    # The ray enters through the top or the bottom.
    through_cap = low > near
    # A point is inside where it is inside on every axis: from the last entry to the first exit.
    entry = np.maximum(near, low)
    hit = (entry < np.minimum(far, high)) & (entry > _EPSILON)
    distance = np.where(hit, entry, NO_HIT).astype(np.float32)
    # 0 instead of infinity, whose product with 0 is NaN.
    local = start + rays * np.where(hit, entry, 0)[..., None]
    normal = np.zeros_like(rays)
    if solid.round:
        # The gradient of the ellipse's equation is normal to it.
        normal[..., :2] = local[..., :2] / half[:2] ** 2
        normal[..., :2] /= np.linalg.norm(normal[..., :2], axis=-1, keepdims=True) + _EPSILON
    else:
        for number in (0, 1):
            normal[..., number] = np.where(axis == number, -np.sign(rays[..., number]), 0)
    normal[through_cap] = 0
    normal[..., 2] = np.where(through_cap, -np.sign(rays[..., 2]), normal[..., 2])
    # A rotation's transpose is its inverse, so this returns to world coordinates.
    return Hits(distance, normal @ turn, local.astype(np.float32))


def _slab(start: np.float32, rays: Floats, half: np.float32) -> tuple[Floats, Floats]:
    """Distances at which rays enter and leave -half to half of one axis."""
    safe = np.where(np.abs(rays) < _EPSILON, _EPSILON, rays)
    one, other = (-half - start) / safe, (half - start) / safe
    return np.minimum(one, other), np.maximum(one, other)


def _slabs(start: Floats, rays: Floats, half: Floats) -> tuple[Floats, Floats, NDArray[np.int64]]:
    """Entry into and exit from the slabs of x and y, and the axis of the entry."""
    pairs = [_slab(start[axis], rays[..., axis], half[axis]) for axis in (0, 1)]
    entries = np.stack([low for low, _ in pairs])
    return entries.max(0), np.min([high for _, high in pairs], axis=0), entries.argmax(0)


def _ellipse(start: Floats, rays: Floats, half: Floats) -> tuple[Floats, Floats, None]:
    """Entry into and exit from an endless upright cylinder."""
    # Scaled to a unit circle: |p + t d|^2 = 1 is a t^2 + 2 b t + (p p - 1) = 0.
    p, d = start[:2] / half[:2], rays[..., :2] / half[:2]
    a = (d * d).sum(-1) + _EPSILON
    b = d @ p
    root = b * b - a * (p @ p - 1)
    width = np.sqrt(np.maximum(root, 0))
    entry = np.where(root > 0, (-b - width) / a, NO_HIT)
    return entry.astype(np.float32), ((-b + width) / a).astype(np.float32), None
