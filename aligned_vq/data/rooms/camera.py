"""A pinhole camera in a room: which ray each pixel sees, and where a solid lies in the image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from aligned_vq.data.rooms.solids import Floats, Solid, Vector, corners

_NEAR_M = 0.05


@dataclass(frozen=True)
class Camera:
    """Where the camera stands and what it sees.

    Args:
        position: metres.
        yaw: radians about z; 0 looks along y.
        pitch: radians; negative looks down.
        roll: radians about the viewing axis.
        field_of_view: radians across the width.
        width: pixels.
        height: pixels.
    """

    position: Vector
    yaw: float
    pitch: float
    roll: float
    field_of_view: float
    width: int
    height: int

    def axes(self) -> Floats:
        """Unit vectors to the right, up and forward in world coordinates, `[3, 3]`."""
        cy, sy = math.cos(self.yaw), math.sin(self.yaw)
        cp, sp = math.cos(self.pitch), math.sin(self.pitch)
        forward = np.array([-sy * cp, cy * cp, sp])
        right = np.array([cy, sy, 0.0])
        up = np.cross(right, forward)
        cr, sr = math.cos(self.roll), math.sin(self.roll)
        # Rolled about the viewing axis.
        return np.stack([cr * right + sr * up, cr * up - sr * right, forward]).astype(np.float32)

    @property
    def focal_pixels(self) -> float:
        """Focal length in pixels."""
        return self.width / 2 / math.tan(self.field_of_view / 2)

    def rays(self) -> Floats:
        """Directions `[H, W, 3]`, each of length 1 along the viewing axis, so that a distance along
        one is the depth that a depth camera reports."""
        right, up, forward = self.axes()
        # Rays pass through the centres of pixels.
        x = (np.arange(self.width, dtype=np.float32) + 0.5 - self.width / 2) / self.focal_pixels
        y = (self.height / 2 - 0.5 - np.arange(self.height, dtype=np.float32)) / self.focal_pixels
        rays: Floats = forward + x[None, :, None] * right + y[:, None, None] * up
        return rays

    def windows(self, solids: Sequence[Solid]) -> list[tuple[slice, slice] | None]:
        """Rows and columns that each solid can cover; None where it is behind the camera or beside
        the image."""
        if not solids:
            return []
        # In camera coordinates, [N, 8, 3]: right, up, forward.
        relative = (corners(solids) - np.array(self.position, np.float32)) @ self.axes().T
        depth = relative[..., 2]
        behind = depth < _NEAR_M
        scale = self.focal_pixels / np.where(behind, _NEAR_M, depth)
        columns = self.width / 2 + relative[..., 0] * scale
        rows = self.height / 2 - relative[..., 1] * scale
        lefts, rights = _bounds(columns, self.width)
        tops, bottoms = _bounds(rows, self.height)
        windows: list[tuple[slice, slice] | None] = []
        for n in range(len(solids)):
            if behind[n].all():
                windows.append(None)
            elif behind[n].any():
                # A corner behind the camera has no place in the image: no bound is known.
                windows.append((slice(0, self.height), slice(0, self.width)))
            elif lefts[n] < rights[n] and tops[n] < bottoms[n]:
                windows.append((slice(tops[n], bottoms[n]), slice(lefts[n], rights[n])))
            else:
                windows.append(None)
        return windows


def _bounds(places: Floats, size_px: int) -> tuple[list[int], list[int]]:
    """First pixel, and the one behind the last, that places `[N, 8]` in pixels cover."""
    low = np.clip(np.floor(places.min(1)), 0, size_px).astype(int)
    high = np.clip(np.ceil(places.max(1)), 0, size_px).astype(int)
    return low.tolist(), high.tolist()
