"""Colours and patterns of surfaces."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.rooms.solids import Floats

Pattern = Literal["plain", "speckle", "planks", "tiles", "stripes", "spines"]
Colour = tuple[float, float, float]
_GAP = 0.06
"""Share of a plank or tile that is the joint beside it."""


@dataclass(frozen=True)
class Material:
    """How a surface looks.

    Args:
        colour: linear red, green and blue, 0 to 1.
        pattern: drawn on it.
        scale_m: width of a plank, tile, stripe or book's spine.
        contrast: 0 to 1, of the pattern.
        emits: 0 to 1, the share of its colour that it has without light: screens and lamps.
        celsius: temperature of its surface.
    """

    colour: Colour
    pattern: Pattern = "plain"
    scale_m: float = 0.2
    contrast: float = 0.2
    emits: float = 0.0
    celsius: float = 20.0

    def shade(self, points: Floats, normals: Floats) -> Floats:
        """Colours `[..., 3]` before lighting, of surface points in metres `[..., 3]`."""
        colour = np.array(self.colour, np.float32)
        if self.pattern == "plain":
            return np.broadcast_to(colour, points.shape).astype(np.float32)
        # Coordinates within the surface: drop the axis that the normal is nearest to.
        dropped = np.abs(normals).argmax(-1)
        u = np.where(dropped == 0, points[..., 1], points[..., 0]) / self.scale_m
        v = np.where(dropped == 2, points[..., 1], points[..., 2]) / self.scale_m
        if self.pattern == "spines":
            # Three hashes give each spine a colour.
            tints = np.stack([_hash(np.floor(u), np.floor(v / 4) + n) for n in range(3)], -1)
            shaded: Floats = (colour * (1 - self.contrast) + tints * self.contrast).astype(
                np.float32
            )
            return shaded
        strength = 1 + self.contrast * _value(self.pattern, u, v)
        return (colour * strength[..., None]).astype(np.float32)


def _value(pattern: Pattern, u: Floats, v: Floats) -> Floats:
    """-1 to 1 at coordinates in units of the pattern's scale."""
    if pattern == "speckle":
        return 2 * _hash(np.floor(4 * u), np.floor(4 * v)) - 1
    if pattern == "stripes":
        return np.where(np.floor(u) % 2 == 0, 1, -1).astype(np.float32)
    if pattern == "planks":
        # Planks are six times as long as wide, and every row is shifted.
        joint = (u % 1 < _GAP) | ((v / 6 + _hash(np.floor(u), 0 * u)) % 1 < _GAP / 6)
        return np.where(joint, -1, 0.8 * _hash(np.floor(u), np.floor(v / 6)) - 0.4).astype(
            np.float32
        )
    joint = (u % 1 < _GAP) | (v % 1 < _GAP)
    return np.where(joint, -1, 0.2).astype(np.float32)


def _hash(u: Floats, v: Floats) -> Floats:
    """A fixed pseudo-random number from 0 to 1 for each pair of whole numbers."""
    # The sine hash common in shaders, in float64: the fraction of a large product needs digits.
    mixed: NDArray[np.float64] = np.sin(u.astype(np.float64) * 127.1 + v * 311.7) * 43758.5453
    return (mixed - np.floor(mixed)).astype(np.float32)
