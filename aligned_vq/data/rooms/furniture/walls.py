"""Doors, windows, boards and screens."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, pole, row
from aligned_vq.data.rooms.solids import Solid, box


def door(rng: np.random.Generator) -> list[Solid]:
    """A closed door in its frame."""
    height = between(rng, 1.95, 2.1)
    frame = [box((s * 0.46, 0, 0), (0.08, 0.1, height + 0.08), "white") for s in (-1, 1)]
    return [
        box((0, 0, 0), (0.86, 0.06, height), "wood"),
        *frame,
        box((0, 0, height), (1.0, 0.1, 0.08), "white"),  # lintel
        box((0.34, -0.06, 1.0), (0.12, 0.05, 0.03), "metal"),  # handle
    ]


def lift(rng: np.random.Generator) -> list[Solid]:
    """Two metal sliding doors, and a panel of buttons."""
    height = between(rng, 2.05, 2.2)
    doors = [box((s * 0.28, 0, 0), (0.54, 0.06, height), "metal") for s in (-1, 1)]
    panel = box((0.85, 0, 1.0), (0.14, 0.05, 0.3), "dark")
    return [
        *doors,
        panel,
        box((0, 0, height), (1.3, 0.1, 0.25), "stone"),  # lintel
        box((0, -0.04, 0), (0.015, 0.02, height), "dark"),
    ]


def window(rng: np.random.Generator) -> list[Solid]:
    """A bright window with a cross of bars and a sill."""
    width, height, base = between(rng, 0.8, 1.6), between(rng, 0.9, 1.3), 0.9
    bars = [
        box((0, -0.03, base), (0.05, 0.03, height), "white"),
        box((0, -0.03, base + height / 2), (width, 0.03, 0.05), "white"),
    ]
    return [
        box((0, 0, base), (width, 0.03, height), "daylight"),  # pane
        *bars,
        box((0, -0.06, base - 0.05), (width + 0.1, 0.16, 0.05), "white"),  # sill
    ]


def whiteboard(rng: np.random.Generator) -> list[Solid]:
    """A large white board in a metal frame, written on."""
    width, base = between(rng, 1.6, 2.8), 0.9
    lines = [
        box(
            (between(rng, -0.2, 0.2), -0.025, base + z),
            (width * between(rng, 0.3, 0.7), 0.01, 0.02),
            "dark",
        )
        for z in np.arange(0.2, 1.0, 0.16)
        if rng.random() < 0.7
    ]
    return [
        box((0, 0, base), (width, 0.03, 1.15), "white"),
        box((0, -0.04, base - 0.04), (width, 0.08, 0.03), "metal"),
        *lines,
    ]


def blackboard(rng: np.random.Generator) -> list[Solid]:
    """A dark board with chalk lines and a ledge."""
    width, base = between(rng, 2.2, 3.2), 0.85
    lines = [
        box(
            (between(rng, -0.5, 0.5), -0.025, base + z),
            (width * between(rng, 0.2, 0.5), 0.01, 0.02),
            "white",
        )
        for z in np.arange(0.2, 1.0, 0.18)
    ]
    return [
        box((0, 0, base), (width, 0.04, 1.2), "chalk"),
        box((0, -0.06, base - 0.05), (width, 0.12, 0.05), "wood"),
        *lines,
    ]


def projection_screen(rng: np.random.Generator) -> list[Solid]:
    """A bright screen below a roll, and a projector on the ceiling."""
    width = between(rng, 1.8, 2.6)
    return [
        box((0, 0, 0.95), (width, 0.02, 1.3), "screen"),
        box((0, 0, 2.25), (width + 0.2, 0.1, 0.1), "white"),
        box((0, -1.8, 2.2), (0.35, 0.3, 0.14), "dark"),  # projector
    ]


def television(rng: np.random.Generator) -> list[Solid]:
    """A flat screen on a low cupboard."""
    width = between(rng, 0.9, 1.4)
    return [
        box((0, 0, 0), (width + 0.4, 0.4, 0.45), "wood2"),  # cupboard
        box((0, 0, 0.52), (width, 0.06, width * 0.57), "dark"),
        box((0, -0.04, 0.56), (width - 0.06, 0.01, width * 0.57 - 0.08), "screen"),
    ]


def fireplace(rng: np.random.Generator) -> list[Solid]:
    """A stone surround with a fire in it and a mantelpiece."""
    width = between(rng, 1.2, 1.6)
    sides = [box((s * width / 2, 0, 0), (0.3, 0.4, 1.0), "stone") for s in (-1, 1)]
    logs = [
        box((0, -0.05, 0.05), (0.6, 0.12, 0.1), "wood"),
        box((0, 0, 0.15), (0.3, 0.05, 0.3), "lamp"),  # fire
    ]
    return [
        *sides,
        box((0, 0.15, 0), (width, 0.1, 1.0), "dark"),
        box((0, 0, 1.0), (width + 0.5, 0.5, 0.1), "stone"),  # mantelpiece
        *logs,
        box((0, 0.05, 1.1), (width * 0.6, 0.3, 1.4), "stone"),  # chimney
    ]


def bars(rng: np.random.Generator) -> list[Solid]:
    """A wall of iron bars from floor to ceiling."""
    width = between(rng, 2.2, 3.0)
    return [
        *(pole(x, 0, 0, 2.6, "metal") for x in row(int(width / 0.14), 0.14)),
        *(box((0, 0, z), (width, 0.04, 0.05), "metal") for z in (0.1, 1.2, 2.3)),
    ]


def ladder(rng: np.random.Generator) -> list[Solid]:
    """A ladder against a wall."""
    height = between(rng, 1.8, 2.4)
    return [
        *(pole(s * 0.2, 0, 0, height, "metal") for s in (-1, 1)),
        *(box((0, 0, z), (0.4, 0.03, 0.03), "metal") for z in np.arange(0.25, height, 0.28)),
    ]


MAKERS: dict[str, Maker] = {
    "door": door,
    "lift": lift,
    "window": window,
    "whiteboard": whiteboard,
    "blackboard": blackboard,
    "projection screen": projection_screen,
    "television": television,
    "fireplace": fireplace,
    "iron bars": bars,
    "ladder": ladder,
}
