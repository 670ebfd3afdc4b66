"""Sports equipment, games and toys."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def treadmill(rng: np.random.Generator) -> list[Solid]:
    """A belt with two posts and a panel."""
    height = between(rng, 1.2, 1.4)
    posts = [pole(s * 0.34, 0.65, 0, height, "metal") for s in (-1, 1)]
    rails = [box((s * 0.34, 0.3, height - 0.25), (0.05, 0.7, 0.05), "metal") for s in (-1, 1)]
    return [
        box((0, 0, 0), (0.7, 1.6, 0.16), "dark"),
        *posts,
        *rails,
        box((0, 0.68, height), (0.7, 0.08, 0.28), "screen"),
    ]


def weight_bench(rng: np.random.Generator) -> list[Solid]:
    """A bench under a bar with discs."""
    height = between(rng, 1.0, 1.2)
    posts = [pole(s * 0.5, 0.5, 0, height, "metal") for s in (-1, 1)]
    discs = [
        box((s * x, 0.5, height - 0.2), (0.05, 0.42, 0.42), "dark")
        for s in (-1, 1)
        for x in (0.72, 0.8)
    ]
    return [
        box((0, 0, 0.38), (0.3, 1.2, 0.08), "fabric2"),
        *legs(0.3, 1.1, 0.38, 0.06, "metal"),
        *posts,
        box((0, 0.5, height), (1.9, 0.04, 0.04), "metal"),
        *discs,
    ]


def dumbbells(rng: np.random.Generator) -> list[Solid]:
    """Two sloping rows of dumb-bells."""
    width = between(rng, 1.4, 2.0)
    weights = []
    for z, y in ((0.4, -0.1), (0.75, 0.1)):
        for x in row(int(width / 0.22), 0.22):
            weights += [
                box((x, y + dy, z + 0.03), (0.12, 0.1, 0.12), "dark") for dy in (-0.12, 0.12)
            ]
            weights.append(box((x, y, z + 0.07), (0.04, 0.2, 0.04), "metal"))
    shelves = [box((0, y, z), (width, 0.4, 0.03), "metal") for z, y in ((0.4, -0.1), (0.75, 0.1))]
    return [*legs(width, 0.5, 0.9, 0.06, "metal"), *shelves, *weights]


def exercise_bike(rng: np.random.Generator) -> list[Solid]:
    """A flywheel, a saddle and handlebars."""
    saddle = between(rng, 0.85, 1.0)
    wheel = Solid((0, 0.35, 0.4), (0.1, 0.55, 0.55), "dark")
    return [
        box((0, 0, 0), (0.5, 0.08, 0.08), "metal"),
        box((0, 0, 0.06), (0.08, 1.0, 0.08), "metal"),
        wheel,
        pole(0, -0.25, 0, saddle, "metal"),
        box((0, -0.25, saddle), (0.2, 0.28, 0.08), "dark"),
        pole(0, 0.3, 0, 1.15, "metal"),
        box((0, 0.25, 1.15), (0.5, 0.05, 0.05), "dark"),
    ]


def exercise_mat(rng: np.random.Generator) -> list[Solid]:
    """A mat with a ball-like roll on it."""
    return [
        box((0, 0, 0), (0.65, 1.75, 0.02), "accent"),
        cylinder((0.1, between(rng, -0.5, 0.5), 0.02), 0.45, 0.4, "accent"),
    ]


def dartboard(rng: np.random.Generator) -> list[Solid]:
    """A board on the wall in a square cabinet."""
    height = between(rng, 1.4, 1.6)
    wings = [box((s * 0.55, -0.05, height), (0.5, 0.05, 0.6), "wood") for s in (-1, 1)]
    return [
        box((0, 0, height), (0.6, 0.06, 0.6), "dark"),
        box((0, -0.04, height + 0.12), (0.36, 0.02, 0.36), "felt"),
        *wings,
    ]


def football_table(rng: np.random.Generator) -> list[Solid]:
    """A table with rods that stick out."""
    height = between(rng, 0.85, 0.95)
    rods = [box((0, y, height - 0.02), (1.4, 0.03, 0.03), "metal") for y in row(6, 0.2)]
    sides = [box((s * 0.4, 0, height - 0.22), (0.05, 1.35, 0.25), "wood") for s in (-1, 1)]
    return [
        *legs(0.8, 1.35, height - 0.2, 0.1, "wood"),
        box((0, 0, height - 0.24), (0.8, 1.35, 0.1), "felt"),
        *sides,
        *rods,
    ]


def lane(rng: np.random.Generator) -> list[Solid]:
    """A bowling lane with gutters and pins at its end."""
    length = between(rng, 3.4, 4.2)
    gutters = [box((s * 0.62, 0, 0), (0.14, length, 0.02), "dark") for s in (-1, 1)]
    pins = [
        cylinder((x, length / 2 - 0.2 - 0.22 * r, 0.08), 0.11, 0.36, "white")
        for r in range(3)
        for x in row(3 - r, 0.26)
    ]
    return [
        box((0, 0, 0), (1.05, length, 0.06), "wood"),
        *gutters,
        *pins,
        box((0, length / 2 + 0.1, 0.7), (1.4, 0.1, 0.6), "accent"),
    ]


def toys(rng: np.random.Generator) -> list[Solid]:
    """Blocks and a small table for children."""
    blocks = [
        box(
            (*rng.uniform(-0.6, 0.6, 2), 0),
            (0.14, 0.14, 0.14),
            str(rng.choice(["accent", "fabric", "lamp", "felt"])),
            between(rng, 0, 1.5),
        )
        for _ in range(8)
    ]
    return [board(0.6, 0.6, 0.42, "accent"), *legs(0.6, 0.6, 0.42, 0.05, "white"), *blocks]


MAKERS: dict[str, Maker] = {
    "treadmill": treadmill,
    "weight bench": weight_bench,
    "dumbbells": dumbbells,
    "exercise bike": exercise_bike,
    "exercise mat": exercise_mat,
    "dartboard": dartboard,
    "table football": football_table,
    "bowling lane": lane,
    "toys": toys,
}
