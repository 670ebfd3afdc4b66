"""Puts furniture into a room, where its kind says and nothing else stands."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from aligned_vq.data.rooms.furniture import MAKERS
from aligned_vq.data.rooms.kinds import ANY, Piece, RoomKind
from aligned_vq.data.rooms.render import Furniture
from aligned_vq.data.rooms.solids import Solid, Vector, corners, placed

_TRIES = 12
_GAP_M = 0.04
_TOWARDS_THE_END = ("school desk", "pew", "chair")
"""Pieces that face the far wall when they stand in rows."""
_QUARTER = math.pi / 2


class Footprint(NamedTuple):
    """The rectangle that a piece covers on the floor, metres, and how high it reaches."""

    left: float
    right: float
    front: float
    back: float
    top: float

    def overlaps(self, other: Footprint) -> bool:
        """Whether two pieces would touch."""
        return (
            self.left < other.right + _GAP_M
            and other.left < self.right + _GAP_M
            and self.front < other.back + _GAP_M
            and other.front < self.back + _GAP_M
        )

    def contains(self, x: float, y: float, margin: float) -> bool:
        """Whether a point lies in it or within `margin` of it."""
        return (
            self.left - margin < x < self.right + margin
            and self.front - margin < y < self.back + margin
        )


class RoomLayout:
    """A room that is being furnished.

    Args:
        size: of the room, metres.
        rng: decides on everything.
    """

    def __init__(self, size: Vector, rng: np.random.Generator) -> None:
        self.size = size
        self.furniture: list[Furniture] = []
        self.footprints: list[Footprint] = []
        self._rng = rng
        self._anchors: list[Footprint] = []

    def furnish(self, kind: RoomKind, clutter: int) -> None:
        """Place a kind's pieces, then `clutter` of its extras, as far as there is room."""
        for piece in kind.pieces:
            if self._rng.random() < piece.probability:
                self._place(piece, int(self._rng.integers(piece.low, piece.high + 1)))
        for name in self._rng.choice(np.array([*kind.extras, ANY], object), clutter):
            self._place(Piece(str(name), 1, 1, "wall" if self._rng.random() < 0.7 else "centre"), 1)

    def _place(self, piece: Piece, count: int) -> None:
        spots = self._grid(count) if piece.place == "grid" else [(0.0, 0.0)] * count
        for spot in spots:
            name = piece.name if piece.name != ANY else str(self._rng.choice(sorted(MAKERS)))
            solids = MAKERS[name](self._rng)
            extent = _extent(solids)
            for _ in range(_TRIES):
                x, y, yaw = self._position(piece, extent, spot)
                if self._add(name, placed(solids, x, y, yaw), piece.place):
                    break

    def _add(self, name: str, solids: Sequence[Solid], place: str) -> bool:
        """Put solids down unless they reach through a wall or into something."""
        footprint = _footprint(solids)
        width, depth, _ = self.size
        inside = footprint.left >= 0 and footprint.right <= width
        if not inside or footprint.front < 0 or footprint.back > depth:
            return False
        # Heights are not compared: a piece may not stand under another one.
        if any(footprint.overlaps(other) for other in self.footprints):
            return False
        self.furniture.append(Furniture(name, tuple(solids)))
        self.footprints.append(footprint)
        # A piece at a wall is an anchor only if there is no other yet.
        if place in ("centre", "grid", "end") or (place == "wall" and not self._anchors):
            self._anchors.append(footprint)
        return True

    def _position(
        self, piece: Piece, extent: tuple[float, float], spot: tuple[float, float]
    ) -> tuple[float, float, float]:
        """x, y and yaw of one try."""
        width, depth, _ = self.size
        rng = self._rng
        across, along = extent
        match piece.place:
            case "grid":
                yaw = math.pi if piece.name in _TOWARDS_THE_END else 0.0
                return (*(spot + rng.normal(0, 0.05, 2)), yaw)
            case "end":
                return width / 2 + rng.normal(0, 0.1), depth - along / 2 - 0.02, 0.0
            case "around" if self._anchors:
                return self._around(extent)
            case "beside" if self.footprints:
                last = self.footprints[-1]
                side = rng.choice((-1, 1))
                x = last.right + across / 2 + 0.05 if side > 0 else last.left - across / 2 - 0.05
                return float(x), last.back - along / 2, 0.0
            case "centre" | "around":
                yaw = _QUARTER * rng.integers(0, 4) + rng.normal(0, 0.08)
                return (
                    *rng.uniform((0.3, 1.0), (max(0.3, width - 0.3), max(1.0, depth - 0.2))),
                    float(yaw),
                )
        # The far wall and the side walls, which the camera sees, and seldom the one behind it.
        wall = rng.choice(4, p=(0.46, 0.26, 0.26, 0.02))
        if wall in (0, 3):  # the far wall, or the one behind the camera
            # `uniform` needs ascending bounds, even if the piece is wider than the room.
            x = rng.uniform(across / 2, max(across / 2, width - across / 2))
            y = depth - along / 2 - 0.02 if wall == 0 else along / 2 + 0.02
            return float(x), float(y), 0.0 if wall == 0 else math.pi
        y = rng.uniform(across / 2, max(across / 2, depth - across / 2))
        x = along / 2 + 0.02 if wall == 1 else width - along / 2 - 0.02
        return float(x), float(y), _QUARTER if wall == 1 else -_QUARTER

    def _around(self, extent: tuple[float, float]) -> tuple[float, float, float]:
        """At a side of a piece that stands free, facing it."""
        rng = self._rng
        anchor = self._anchors[int(rng.integers(len(self._anchors)))]
        distance = extent[1] / 2 + rng.uniform(0.05, 0.2)
        x, y = rng.uniform((anchor.left, anchor.front), (anchor.right, anchor.back))
        match int(rng.integers(4)):
            case 0:
                return float(x), anchor.front - distance, math.pi
            case 1:
                return float(x), anchor.back + distance, 0.0
            case 2:
                return anchor.left - distance, float(y), _QUARTER
        return anchor.right + distance, float(y), -_QUARTER

    def _grid(self, count: int) -> list[tuple[float, float]]:
        """`count` places in rows over the room's middle."""
        width, depth, _ = self.size
        # The ratio of columns to rows is about that of width to depth.
        columns = max(1, min(count, round(math.sqrt(count * width / depth))))
        rows = math.ceil(count / columns)
        xs = [width * (column + 0.5) / columns for column in range(columns)]
        ys = [1.2 + (depth - 2.0) * (row + 0.5) / rows for row in range(rows)]
        return [(x, y) for y in ys for x in xs][:count]


def _footprint(solids: Sequence[Solid]) -> Footprint:
    places = corners(solids)
    low, high = places.min((0, 1)), places.max((0, 1))
    return Footprint(*map(float, (low[0], high[0], low[1], high[1], high[2])))


def _extent(solids: Sequence[Solid]) -> tuple[float, float]:
    """Width and depth of solids around the origin, as if they were centred."""
    print_ = _footprint(solids)
    # Symmetric about the origin, on which the piece is placed.
    return 2 * max(-print_.left, print_.right), 2 * max(-print_.front, print_.back)
