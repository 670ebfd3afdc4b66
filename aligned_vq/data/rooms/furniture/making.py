"""Parts that several pieces of furniture share."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from aligned_vq.data.rooms.solids import Solid, box, cylinder

Maker = Callable[[np.random.Generator], list[Solid]]


def legs(width: float, depth: float, height: float, thickness: float, material: str) -> list[Solid]:
    """Four legs at the corners of a rectangle."""
    x, y = width / 2 - thickness, depth / 2 - thickness
    return [
        box((sx * x, sy * y, 0), (thickness, thickness, height), material)
        for sx in (-1, 1)
        for sy in (-1, 1)
    ]


def board(
    width: float, depth: float, height: float, material: str, thickness: float = 0.04
) -> Solid:
    """A horizontal board whose upper side is at `height`."""
    return box((0, 0, height - thickness), (width, depth, thickness), material)


def row(count: int, spacing: float) -> list[float]:
    """`count` positions `spacing` apart, centred on 0."""
    return [spacing * (number - (count - 1) / 2) for number in range(count)]


def between(rng: np.random.Generator, low: float, high: float) -> float:
    """A uniform number."""
    return float(rng.uniform(low, high))


def pole(x: float, y: float, bottom: float, height: float, material: str) -> Solid:
    """A thin upright pole."""
    return cylinder((x, y, bottom), 0.05, height, material)
