"""A room as every camera sees it, with its label and a caption, from a split and an index."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from aligned_vq.data.rooms.furniture import MAKERS
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.data.rooms.render import RoomImages, render
from aligned_vq.data.rooms.scenes import Split, Style, sample_camera, sample_room, scene_rng
from aligned_vq.data.rooms.sensors import depth_camera, thermal_camera

IMAGE_SIDE_PX = 144
_NOTICED_SHARE = 0.004
"""Of the image: smaller pieces of furniture are not worth a word."""
_MAX_NAMED = 3


@dataclass(frozen=True)
class RoomExample:
    """One view of one room; images are `[H, W]`, `rgb` is `[H, W, 3]`."""

    label: str
    """Its kind, from `kinds.yaml`."""
    caption: str
    rgb: NDArray[np.uint8]
    depth_mm: NDArray[np.uint16]
    infrared: NDArray[np.uint8]
    shown: NDArray[np.uint8]
    """Furniture in each pixel: its place in `furniture_names()`; 0: walls, floor or ceiling."""


@dataclass(frozen=True)
class RoomSet:
    """Rooms of one split, style and choice of labels, by index.

    The labels follow each other in turn, so every prefix of the set is balanced.
    """

    split: Split
    labels: tuple[str, ...]
    style: Style = "first"
    first_index: int = 0
    """Of the rooms of the split: two sets that share no index share no room."""
    side_px: int = IMAGE_SIDE_PX

    def __getitem__(self, index: int) -> RoomExample:
        """The room at `index`, 0 or more; always the same."""
        rng = scene_rng(self.split, self.first_index + index, self.style)
        label = self.labels[index % len(self.labels)]
        depth = np.zeros(0, np.uint16)
        while not depth.any():  # a camera right in front of something measures nothing
            room, layout = sample_room(label, rng, self.style)
            camera = sample_camera(layout, rng, self.side_px, self.style)
            images = render(room, camera, rng)
            depth = depth_camera(images, rng)
        infrared = thermal_camera(images.celsius, rng)
        shown = _shown(images, [item.name for item in room.furniture])
        text = caption(label, _noticed(shown), rng)
        return RoomExample(label, text, images.rgb, depth, infrared, shown)


def all_labels() -> tuple[str, ...]:
    """Every kind of room, ScanNet's 21 first."""
    return tuple(room_kinds().all)


@cache
def furniture_names() -> tuple[str, ...]:
    """What a pixel may show: "" for walls, then every kind of furniture by name."""
    return ("", *sorted(MAKERS))


def caption(label: str, furniture: list[str], rng: np.random.Generator) -> str:
    """A sentence about a room, as people write below images: its kind, some furniture, or both."""
    named = [str(name) for name in rng.permutation(furniture)[:_MAX_NAMED]]
    form = rng.random()
    if form < 0.35 or not named:
        return f"a photo of {with_article(label)}"
    things = " and ".join(with_article(name) for name in named)
    if form < 0.85:
        return f"{with_article(label)} with {things}"
    return f"a room with {things}"


def with_article(noun: str) -> str:
    """A noun behind `a` or `an`."""
    return f"{'an' if noun[0] in 'aeiou' else 'a'} {noun}"


def _shown(images: RoomImages, names: list[str]) -> NDArray[np.uint8]:
    numbers = [furniture_names().index(name) for name in names]
    # `owner` is -1 for walls: the last entry of the table.
    table = np.array([*numbers, 0], np.uint8)
    return table[images.owner]


def _noticed(shown: NDArray[np.uint8]) -> list[str]:
    """Names of furniture that covers a noticeable part of the image."""
    counts = np.bincount(shown.ravel(), minlength=len(furniture_names()))
    enough = counts >= _NOTICED_SHARE * shown.size
    return [name for name, seen in zip(furniture_names()[1:], enough[1:], strict=True) if seen]
