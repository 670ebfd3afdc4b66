"""Tables, desks and what stands on them."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def table(rng: np.random.Generator) -> list[Solid]:
    """A table for meals."""
    width, depth, height = between(rng, 1.1, 1.9), between(rng, 0.75, 1.0), between(rng, 0.7, 0.78)
    return [*legs(width, depth, height, 0.07, "wood"), board(width, depth, height, "wood")]


def set_table(rng: np.random.Generator) -> list[Solid]:
    """A table laid with plates and glasses."""
    top = table(rng)[-1]  # the last solid of a table
    width, depth, height = top.size[0], top.size[1], top.centre[2] + 0.02
    plates = [
        cylinder((x, side * depth * 0.3, height), 0.24, 0.02, "white")
        for x in row(3, width / 3.2)
        for side in (-1, 1)
    ]
    glasses = [
        cylinder((x + 0.18, side * depth * 0.22, height), 0.07, 0.14, "glass")
        for x in row(3, width / 3.2)
        for side in (-1, 1)
    ]
    return [*legs(width, depth, height, 0.07, "wood"), top, *plates, *glasses]


def coffee_table(rng: np.random.Generator) -> list[Solid]:
    """A low table."""
    width, height = between(rng, 0.8, 1.2), between(rng, 0.36, 0.46)
    return [*legs(width, 0.6, height, 0.06, "wood"), board(width, 0.6, height, "wood", 0.05)]


def round_table(rng: np.random.Generator) -> list[Solid]:
    """A round table on one leg."""
    diameter, height = between(rng, 0.6, 0.95), between(rng, 0.72, 0.78)
    return [
        cylinder((0, 0, height - 0.04), diameter, 0.04, "wood"),
        pole(0, 0, 0, height, "metal"),
        cylinder((0, 0, 0), diameter / 2, 0.04, "metal"),
    ]


def desk(rng: np.random.Generator) -> list[Solid]:
    """A writing desk with drawers on one side."""
    width, depth, height = between(rng, 1.2, 1.6), between(rng, 0.6, 0.75), 0.74
    drawers = box((width / 2 - 0.22, 0, 0), (0.4, depth - 0.06, height - 0.05), "wood2")
    return [*legs(width, depth, height, 0.05, "wood"), board(width, depth, height, "wood"), drawers]


def _screen(x: float, y: float, height: float) -> list[Solid]:
    return [
        box((x, y, height + 0.12), (0.52, 0.05, 0.32), "dark"),  # case
        box((x, y - 0.03, height + 0.14), (0.48, 0.01, 0.28), "screen"),  # display
        box((x, y, height), (0.06, 0.06, 0.14), "dark"),  # stand
        box((x, y, height), (0.24, 0.16, 0.02), "dark"),  # foot
        box((x, y - 0.28, height), (0.4, 0.14, 0.03), "dark"),  # keyboard
    ]


def computer_desk(rng: np.random.Generator) -> list[Solid]:
    """A desk with a screen, a keyboard and a computer below."""
    width, depth, height = between(rng, 1.1, 1.5), 0.7, 0.73
    tower = box((width / 2 - 0.2, 0.05, 0), (0.2, 0.45, 0.42), "dark")
    return [
        *legs(width, depth, height, 0.05, "metal"),
        board(width, depth, height, "wood2"),
        *_screen(0, 0.12, height),
        tower,
    ]


def computer_row(rng: np.random.Generator) -> list[Solid]:
    """A long bench with several screens side by side."""
    count, height = int(rng.integers(3, 5)), 0.73
    width = 0.95 * count
    solids = [*legs(width, 0.7, height, 0.06, "metal"), board(width, 0.7, height, "wood2")]
    for x in row(count, 0.95):
        solids += _screen(x, 0.12, height)
    return solids


def conference_table(rng: np.random.Generator) -> list[Solid]:
    """A long table on two slabs, with papers."""
    width, depth, height = between(rng, 2.4, 3.6), between(rng, 1.0, 1.3), 0.75
    slabs = [
        box((side * width * 0.32, 0, 0), (0.12, depth * 0.6, height), "wood2") for side in (-1, 1)
    ]
    papers = [
        box((x, side * depth * 0.32, height), (0.22, 0.3, 0.015), "white")
        for x in row(4, width / 4.5)
        for side in (-1, 1)
        if rng.random() < 0.6
    ]
    return [board(width, depth, height, "wood", 0.06), *slabs, *papers]


def school_desk(rng: np.random.Generator) -> list[Solid]:
    """A small desk with its chair behind."""
    height = between(rng, 0.66, 0.74)
    seat = [board(0.38, 0.36, 0.42, "accent"), box((0, 0.18, 0.42), (0.38, 0.03, 0.36), "accent")]
    chair = [*legs(0.36, 0.34, 0.42, 0.04, "metal"), *seat]
    behind = [
        Solid((s.centre[0], s.centre[1] - 0.55, s.centre[2]), s.size, s.material, round=s.round)
        for s in chair
    ]
    return [*legs(0.7, 0.5, height, 0.04, "metal"), board(0.7, 0.5, height, "wood"), *behind]


def pool_table(rng: np.random.Generator) -> list[Solid]:
    """A heavy table with a green bed, cushions and balls."""
    width, depth, height = 2.3, 1.25, between(rng, 0.78, 0.85)
    edges = [
        box((0, side * depth / 2, height - 0.1), (width + 0.16, 0.12, 0.16), "wood")
        for side in (-1, 1)
    ] + [box((side * width / 2, 0, height - 0.1), (0.12, depth, 0.16), "wood") for side in (-1, 1)]
    balls = [
        # Flat cylinders stand for balls.
        cylinder((*rng.uniform((-1.0, -0.5), (1.0, 0.5)), height), 0.06, 0.06, material)
        for material in ("white", "accent", "dark", "accent", "white")
    ]
    return [
        *legs(width, depth, height - 0.1, 0.16, "wood"),
        box((0, 0, height - 0.08), (width, depth, 0.08), "felt"),
        *edges,
        *balls,
    ]


def table_tennis(rng: np.random.Generator) -> list[Solid]:
    """A thin large table with a net."""
    height = 0.76
    net = box((0, 0, height), (0.02, 1.6, between(rng, 0.15, 0.2)), "white")
    return [*legs(2.3, 1.3, height, 0.05, "metal"), board(2.74, 1.52, height, "felt", 0.03), net]


def workbench(rng: np.random.Generator) -> list[Solid]:
    """A heavy bench with a vice, tools hanging on a board behind it."""
    width, height = between(rng, 1.5, 2.1), between(rng, 0.85, 0.95)
    tools = [
        box((x, 0.33, between(rng, 1.2, 1.7)), (0.05, 0.03, between(rng, 0.15, 0.35)), "metal")
        for x in row(7, width / 8)
    ]
    hanging = box((0, 0.36, height + 0.15), (width, 0.03, 0.9), "wood2")
    vice = box((-width / 3, -0.2, height), (0.2, 0.28, 0.2), "metal")
    return [
        *legs(width, 0.7, height, 0.1, "wood"),
        board(width, 0.7, height, "wood", 0.08),
        hanging,
        vice,
        *tools,
    ]


def easel(rng: np.random.Generator) -> list[Solid]:
    """A canvas on three poles."""
    top = between(rng, 1.5, 1.8)
    canvas = box((0, -0.05, 0.75), (between(rng, 0.5, 0.9), 0.03, 0.75), "white")
    paint = box((between(rng, -0.15, 0.15), -0.07, 0.95), (0.3, 0.01, 0.35), "accent")
    return [
        canvas,
        paint,
        pole(-0.3, 0, 0, top, "wood"),
        pole(0.3, 0, 0, top, "wood"),
        pole(0, 0.4, 0, top - 0.2, "wood"),
    ]


MAKERS: dict[str, Maker] = {
    "table": table,
    "laid table": set_table,
    "coffee table": coffee_table,
    "round table": round_table,
    "desk": desk,
    "computer": computer_desk,
    "row of computers": computer_row,
    "conference table": conference_table,
    "school desk": school_desk,
    "pool table": pool_table,
    "table tennis table": table_tennis,
    "workbench": workbench,
    "easel": easel,
}
