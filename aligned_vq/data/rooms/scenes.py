"""Rooms of the reference world, drawn from a seed: furniture, colours, light and camera."""

from __future__ import annotations

import colorsys
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from aligned_vq.data.rooms.camera import Camera
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.data.rooms.layout import RoomLayout
from aligned_vq.data.rooms.materials import Colour, Material, Pattern
from aligned_vq.data.rooms.render import Light, Room

Split = Literal["train", "validation", "test", "holdout"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "holdout")
"""`holdout` is for a single final report: no decision may see it."""
Style = Literal["first", "second"]
_WORLD = 2
"""Keeps the seeds apart from those of other worlds."""


@dataclass(frozen=True)
class StyleRanges:
    """What differs between the variants of the world; pairs are bounds of uniform draws."""

    saturation: tuple[float, float]
    value: tuple[float, float]
    scale: tuple[float, float]
    """Of the room's width and depth."""
    camera_height_m: tuple[float, float]
    field_of_view_deg: tuple[float, float]
    pitch_deg: tuple[float, float]
    exposure: tuple[float, float]
    clutter: int


STYLES: dict[Style, StyleRanges] = {
    "first": StyleRanges(
        (0.05, 0.6), (0.35, 0.95), (0.9, 1.1), (1.3, 1.8), (64, 82), (-20, -4), (0.7, 1.5), 2
    ),
    "second": StyleRanges(
        (0.0, 0.9), (0.2, 1.0), (0.8, 1.3), (1.1, 2.0), (56, 90), (-26, 0), (0.5, 1.9), 3
    ),
}


def scene_rng(split: Split, index: int, style: Style = "first") -> np.random.Generator:
    """A generator for each room of each split and style, so that none share one."""
    return np.random.default_rng([_WORLD, list(STYLES).index(style), SPLITS.index(split), index])


def sample_room(
    label: str, rng: np.random.Generator, style: Style = "first"
) -> tuple[Room, RoomLayout]:
    """A furnished room of a kind, and where its furniture stands."""
    ranges, kind = STYLES[style], room_kinds().all[label]
    size = (
        rng.uniform(*kind.width_m) * rng.uniform(*ranges.scale),
        rng.uniform(*kind.depth_m) * rng.uniform(*ranges.scale),
        rng.uniform(*kind.height_m),
    )
    layout = RoomLayout(size, rng)
    layout.furnish(kind, int(rng.integers(0, ranges.clutter + 1)))
    light = Light(
        (
            float(rng.uniform(0.2, 0.8)) * size[0],
            float(rng.uniform(0.1, 0.9)) * size[1],
            float(rng.uniform(0.7, 0.98)) * size[2],
        ),
        float(rng.uniform(0.35, 0.75)),
        float(rng.uniform(*ranges.exposure)),
    )
    return Room(label, size, tuple(layout.furniture), _palette(rng, ranges), light), layout


def sample_camera(
    layout: RoomLayout, rng: np.random.Generator, side_px: int, style: Style = "first"
) -> Camera:
    """A camera between the furniture that looks across the room, seldom at all of it."""
    ranges = STYLES[style]
    width, depth, height = layout.size
    z = min(float(rng.uniform(*ranges.camera_height_m)), height - 0.3)  # below the ceiling
    x, y = _free_spot(layout, rng, z)
    target_x, target_y = rng.uniform(0.35, 0.65) * width, rng.uniform(0.6, 1.0) * depth
    # The viewing direction is (-sin(yaw), cos(yaw)).
    yaw = math.atan2(x - target_x, target_y - y) + float(rng.normal(0, 0.08))
    return Camera(
        (x, y, z),
        yaw,
        math.radians(rng.uniform(*ranges.pitch_deg)),
        float(rng.normal(0, 0.02)),
        math.radians(rng.uniform(*ranges.field_of_view_deg)),
        side_px,
        side_px,
    )


def _free_spot(layout: RoomLayout, rng: np.random.Generator, z: float) -> tuple[float, float]:
    """A place in the front half of the room, not inside or close to furniture that reaches up to
    the camera; a front corner where there is none."""
    width, depth, _ = layout.size
    for _ in range(20):
        x, y = rng.uniform((0.2, 0.12), (width - 0.2, max(0.3, 0.3 * depth)))
        close = (f for f in layout.footprints if f.top > z - 0.25 and f.contains(x, y, 0.3))
        if next(close, None) is None:
            return float(x), float(y)
    return 0.2, 0.12


def _palette(rng: np.random.Generator, ranges: StyleRanges) -> dict[str, Material]:
    """Materials of walls and furniture."""

    def paint(low: float = 0.0, high: float = 1.0) -> Colour:
        hue = float(rng.uniform(low, high))
        return colorsys.hsv_to_rgb(hue, rng.uniform(*ranges.saturation), rng.uniform(*ranges.value))

    def grey(low: float, high: float) -> Colour:
        value = float(rng.uniform(low, high))
        return (value, value, value)

    room_c = float(rng.uniform(16, 25))

    def around(difference: float, spread: float = 1.0) -> float:
        return room_c + difference + float(rng.normal(0, spread))

    wall = Material(
        paint(), _one_of(rng, "plain", "plain", "speckle", "stripes"), 0.3, 0.06, celsius=around(-1)
    )
    other = wall if rng.random() < 0.6 else Material(paint(), celsius=around(-1))
    floor_pattern = _one_of(rng, "planks", "tiles", "speckle", "plain")
    wood = colorsys.hsv_to_rgb(
        rng.uniform(0.04, 0.11), rng.uniform(0.2, 0.75), rng.uniform(0.25, 0.85)
    )
    second = colorsys.hsv_to_rgb(
        rng.uniform(0.02, 0.13), rng.uniform(0.1, 0.7), rng.uniform(0.3, 0.95)
    )
    return {
        **dict.fromkeys(("left", "right"), wall),
        **dict.fromkeys(("front", "back"), other),
        "floor": Material(
            paint(), floor_pattern, float(rng.uniform(0.12, 0.6)), 0.25, celsius=around(-2)
        ),
        "ceiling": Material(grey(0.7, 1.0), celsius=around(0.5)),
        "wood": Material(wood, "planks", 0.15, 0.1, celsius=around(0.5)),
        "wood2": Material(second, celsius=around(0)),
        "metal": Material(grey(0.35, 0.75), celsius=around(-1, 2)),
        "dark": Material(grey(0.03, 0.2), celsius=around(4, 3)),
        "white": Material(grey(0.75, 1.0), celsius=around(0)),
        "stone": Material(grey(0.4, 0.8), "speckle", 0.1, 0.2, celsius=around(-2)),
        "cardboard": Material(
            colorsys.hsv_to_rgb(0.09, rng.uniform(0.25, 0.5), rng.uniform(0.5, 0.8)),
            celsius=around(0),
        ),
        "fabric": Material(
            paint(), _one_of(rng, "plain", "stripes", "speckle"), 0.08, 0.15, celsius=around(1)
        ),
        "fabric2": Material(paint(), celsius=around(2)),
        "accent": Material(paint(), celsius=around(0)),
        "books": Material(grey(0.4, 0.7), "spines", 0.04, 0.7, celsius=around(0.3)),
        "felt": Material(
            colorsys.hsv_to_rgb(rng.uniform(0.3, 0.62), 0.6, rng.uniform(0.3, 0.6)),
            celsius=around(0),
        ),
        "plant": Material(
            colorsys.hsv_to_rgb(rng.uniform(0.22, 0.4), 0.6, rng.uniform(0.25, 0.6)),
            celsius=around(-1),
        ),
        "chalk": Material(
            colorsys.hsv_to_rgb(rng.uniform(0.3, 0.5), 0.3, rng.uniform(0.1, 0.3)),
            celsius=around(-0.5),
        ),
        "glass": Material(
            colorsys.hsv_to_rgb(0.55, 0.15, rng.uniform(0.5, 0.8)), celsius=around(-3, 2)
        ),
        "water": Material(
            colorsys.hsv_to_rgb(rng.uniform(0.48, 0.58), 0.45, rng.uniform(0.6, 0.9)),
            celsius=around(4, 4),
        ),
        "screen": Material(
            colorsys.hsv_to_rgb(rng.random(), 0.25, rng.uniform(0.2, 0.9)),
            emits=0.6,
            celsius=around(10, 3),
        ),
        "lamp": Material((1.0, 0.9, 0.7), emits=0.8, celsius=around(25, 8)),
        "daylight": Material(
            (0.85, 0.92, 1.0),
            emits=float(rng.uniform(0.4, 0.9)),
            celsius=float(rng.uniform(-2, 32)),
        ),
    }


def _one_of(rng: np.random.Generator, *patterns: Pattern) -> Pattern:
    return patterns[int(rng.integers(len(patterns)))]
