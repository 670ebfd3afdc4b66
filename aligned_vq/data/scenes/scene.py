"""Scenes of the reference world: one to five coloured shapes on a textured background.

A scene is a list of objects, sampled from a seed; `render` gives its pixels and the object that
each pixel shows. This module is independent of questions, tokens and models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageChops, ImageDraw

IMAGE_SIZE_PX = 336
SHAPES = ("circle", "square", "triangle", "star", "cross", "ring", "heart")
COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (216, 40, 44),
    "orange": (244, 138, 20),
    "yellow": (244, 224, 52),
    "green": (44, 164, 66),
    "cyan": (64, 206, 220),
    "blue": (38, 76, 214),
    "purple": (138, 56, 178),
    "pink": (246, 140, 196),
}
SIZES = ("small", "large")
RADIUS_RANGE_PX = {"small": (22.0, 28.0), "large": (44.0, 56.0)}
BACKGROUNDS = ("plain", "gradient", "stripes", "checks", "clouds")
MAX_OBJECTS = 5
MIN_VISIBLE_SHARE = 0.7

Split = Literal["train", "validation", "test", "codec"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test", "codec")
"""Codecs are trained on a separate split, because the reference model's answers are nearly perfect
on the scenes that it was trained on."""
Pixels = NDArray[np.uint8]


@dataclass(frozen=True)
class SceneObject:
    """A shape with its centre and radius in pixels and its rotation in degrees."""

    shape: str
    colour: str
    size: str
    x_px: float
    y_px: float
    radius_px: float
    rotation_deg: float


@dataclass(frozen=True)
class Scene:
    """Objects from back to front, and a background sampled from `texture_seed`."""

    objects: tuple[SceneObject, ...]
    background: str
    texture_seed: int


@dataclass(frozen=True)
class Rendering:
    """Pixels `[H, W, 3]`, and the number of the object at each pixel `[H, W]` (-1: background)."""

    pixels: Pixels
    object_map: NDArray[np.int8]


def scene_rng(split: Split, index: int) -> np.random.Generator:
    """A random generator seeded by split and index, so that splits have different scenes."""
    return np.random.default_rng([SPLITS.index(split), index])


def sample_scene(rng: np.random.Generator) -> Scene:
    """A random scene; at least `MIN_VISIBLE_SHARE` of every object is visible."""
    count = int(rng.integers(1, MAX_OBJECTS + 1))
    background = str(rng.choice(BACKGROUNDS))
    texture_seed = int(rng.integers(2**31))
    objects: list[SceneObject] = []
    while len(objects) < count:
        candidate = _sample_object(rng)
        if _all_visible([*objects, candidate]):
            objects.append(candidate)
        elif rng.random() < 0.2:
            # There may be no room for another object: start again.
            objects.clear()
    return Scene(tuple(objects), background, texture_seed)


def render(scene: Scene) -> Rendering:
    """The image of a scene, `IMAGE_SIZE_PX` square, with shading and sensor noise."""
    rng = np.random.default_rng(scene.texture_seed)
    canvas = _background(scene.background, rng)
    object_map = np.full((IMAGE_SIZE_PX, IMAGE_SIZE_PX), -1, np.int8)
    light = rng.uniform(-1, 1, 2)
    for number, item in enumerate(scene.objects):
        box = _bounding_box(item)
        cover = _coverage(item, box)
        yy, xx = np.mgrid[box].astype(np.float32)
        # Position on the object along the direction of the light, from -1 to 1.
        across = ((xx - item.x_px) * light[0] + (yy - item.y_px) * light[1]) / item.radius_px
        shade = 1.0 + 0.14 * np.clip(across, -1, 1) + rng.uniform(-0.08, 0.08)
        tint = np.array(COLOURS[item.colour], np.float32) + rng.uniform(-10, 10, 3)
        alpha = cover[..., None]  # [h, w, 1]
        canvas[box] = canvas[box] * (1 - alpha) + alpha * (shade[..., None] * tint)
        object_map[box][cover > 0.5] = number  # a view of the map
    noise = rng.standard_normal(canvas.shape, np.float32) * rng.uniform(1, 9)
    pixels = np.clip(canvas + noise, 0, 255).astype(np.uint8)
    return Rendering(pixels, object_map)


def _sample_object(rng: np.random.Generator) -> SceneObject:
    size = str(rng.choice(SIZES))
    radius = float(rng.uniform(*RADIUS_RANGE_PX[size]))
    margin = radius + 2
    x, y = rng.uniform(margin, IMAGE_SIZE_PX - margin, 2)
    return SceneObject(
        shape=str(rng.choice(SHAPES)),
        colour=str(rng.choice(list(COLOURS))),
        size=size,
        x_px=float(x),
        y_px=float(y),
        radius_px=radius,
        rotation_deg=float(rng.uniform(-20, 20)),
    )


def _all_visible(objects: list[SceneObject]) -> bool:
    """Whether enough of each object is visible below the later ones, approximated by discs."""
    for below, item in enumerate(objects):
        # An upper bound, because the discs above may overlap each other.
        hidden = sum(_disc_overlap(item, above) for above in objects[below + 1 :])
        if hidden > 1 - MIN_VISIBLE_SHARE:
            return False
    return True


def _disc_overlap(item: SceneObject, above: SceneObject) -> float:
    """Fraction of the disc of `item` that the disc of `above` covers."""
    r, s = item.radius_px, above.radius_px
    d = math.hypot(item.x_px - above.x_px, item.y_px - above.y_px)
    if d >= r + s:
        return 0.0
    if d <= abs(r - s):
        return min(1.0, (s / r) ** 2)
    # Area common to two circles: two sectors minus the kite between centres and intersections.
    a = r * r * math.acos((d * d + r * r - s * s) / (2 * d * r))
    b = s * s * math.acos((d * d + s * s - r * r) / (2 * d * s))
    c = 0.5 * math.sqrt((-d + r + s) * (d + r - s) * (d - r + s) * (d + r + s))
    return (a + b - c) / (math.pi * r * r)


def _bounding_box(item: SceneObject) -> tuple[slice, slice]:
    """Rows and columns that contain the object."""

    def span(centre: float) -> slice:
        low, high = centre - item.radius_px - 1, centre + item.radius_px + 2
        return slice(max(0, int(low)), min(IMAGE_SIZE_PX, int(high) + 1))

    return span(item.y_px), span(item.x_px)


def _coverage(
    item: SceneObject, box: tuple[slice, slice], oversampling: int = 2
) -> NDArray[np.float32]:
    """Fraction of each pixel of `box` that the shape covers, float32 `[H, W]`."""
    rows, columns = box
    width, height = columns.stop - columns.start, rows.stop - rows.start
    mask = Image.new("L", (width * oversampling, height * oversampling))
    draw = ImageDraw.Draw(mask)
    x = (item.x_px - columns.start) * oversampling
    y = (item.y_px - rows.start) * oversampling
    r = item.radius_px * oversampling
    if item.shape in ("circle", "ring"):
        draw.ellipse((x - r, y - r, x + r, y + r), fill=255)
        if item.shape == "ring":
            hole = Image.new("L", mask.size, 255)
            inner = 0.55 * r
            ImageDraw.Draw(hole).ellipse((x - inner, y - inner, x + inner, y + inner), fill=0)
            mask = ImageChops.multiply(mask, hole)
    else:
        angle = math.radians(item.rotation_deg)
        cos, sin = math.cos(angle), math.sin(angle)
        outline = [
            (x + r * (u * cos - v * sin), y + r * (u * sin + v * cos))
            for u, v in _OUTLINES[item.shape]
        ]
        draw.polygon(outline, fill=255)
    # The mean of the oversampled pixels smooths the edges.
    return np.asarray(mask.reduce(oversampling), np.float32) / np.float32(255)


def _star() -> list[tuple[float, float]]:
    radii = (1.0, 0.42)
    return [
        (radii[k % 2] * math.sin(math.pi * k / 5), -radii[k % 2] * math.cos(math.pi * k / 5))
        for k in range(10)
    ]


def _heart() -> list[tuple[float, float]]:
    angles = np.linspace(0, 2 * math.pi, 40, endpoint=False)
    return [
        # The classic heart curve, scaled to half a width of 1.
        (
            math.sin(t) ** 3,
            -(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16,
        )
        for t in angles.tolist()
    ]


def _cross(arm: float = 0.32) -> list[tuple[float, float]]:
    quarter = [(arm, -1.0), (arm, -arm), (1.0, -arm)]
    rotated = [(-v, u) for u, v in quarter]  # by 90 degrees
    half = quarter + rotated
    return half + [(-u, -v) for u, v in half]  # and by 180


_OUTLINES: dict[str, list[tuple[float, float]]] = {
    "square": [(-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)],
    "triangle": [(0.0, -1.0), (0.95, 0.75), (-0.95, 0.75)],
    "star": _star(),
    "cross": _cross(),
    "heart": _heart(),
}


def _background(kind: str, rng: np.random.Generator) -> NDArray[np.float32]:
    """A texture `[H, W, 3]` of two colours that are less saturated than objects."""
    first, second = (_muted(rng) for _ in range(2))
    yy, xx = np.mgrid[0:IMAGE_SIZE_PX, 0:IMAGE_SIZE_PX].astype(np.float32) / IMAGE_SIZE_PX
    angle = rng.uniform(0, math.pi)
    along = xx * math.cos(angle) + yy * math.sin(angle)
    if kind == "plain":
        mix = np.zeros_like(along)
    elif kind == "gradient":
        mix = along
    elif kind == "stripes":
        mix = 0.5 + 0.5 * np.sin(along * rng.uniform(20, 70))
    elif kind == "checks":
        cells = rng.integers(4, 12)
        mix = (np.floor(xx * cells) + np.floor(yy * cells)) % 2
    else:
        coarse = rng.integers(0, 256, (6, 6), np.uint8)
        clouds = Image.fromarray(coarse).resize((IMAGE_SIZE_PX,) * 2, Image.Resampling.BICUBIC)
        mix = np.asarray(clouds, np.float32) / 255
    return np.asarray(first + mix[..., None] * (second - first), np.float32)


def _muted(rng: np.random.Generator) -> NDArray[np.float32]:
    grey = rng.uniform(50, 200)
    return np.asarray(grey + rng.uniform(-18, 18, 3), np.float32)
