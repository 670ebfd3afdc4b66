"""Kitchens, bars, laundries and bathrooms."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def counter(rng: np.random.Generator) -> list[Solid]:
    """Kitchen cupboards with a worktop, a sink and a tap, and cupboards above."""
    count = int(rng.integers(3, 6))
    width, height = 0.6 * count, 0.9
    fronts = [box((x, -0.31, 0.12), (0.56, 0.02, 0.7), "white") for x in row(count, 0.6)]
    handles = [box((x, -0.33, 0.76), (0.2, 0.02, 0.02), "metal") for x in row(count, 0.6)]
    above = [box((x, 0.12, 1.45), (0.58, 0.34, 0.65), "white") for x in row(count, 0.6)]
    sink_x = float(rng.choice(row(count, 0.6)))
    sink = [
        box((sink_x, -0.02, height), (0.45, 0.38, 0.012), "metal"),
        pole(sink_x, 0.2, height, 0.28, "metal"),
    ]
    return [
        box((0, 0, 0), (width, 0.6, 0.86), "wood2"),
        board(width + 0.04, 0.64, height, "stone"),
        *fronts,
        *handles,
        *above,
        *sink,
    ]


def stove(rng: np.random.Generator) -> list[Solid]:
    """An oven with four plates and a hood above."""
    plates = [
        cylinder((x, y, 0.9), 0.2, 0.015, "dark") for x in (-0.15, 0.15) for y in (-0.14, 0.14)
    ]
    knobs = [box((x, -0.31, 0.8), (0.04, 0.03, 0.04), "dark") for x in row(4, 0.12)]
    window = box((0, -0.31, 0.25), (0.44, 0.02, 0.32), "dark")
    hood = [
        box((0, 0.05, 1.6), (0.6, 0.45, 0.12), "metal"),
        box((0, 0.15, 1.7), (0.24, 0.24, between(rng, 0.5, 0.8)), "metal"),
    ]
    return [box((0, 0, 0), (0.6, 0.6, 0.9), "white"), *plates, *knobs, window, *hood]


def fridge(rng: np.random.Generator) -> list[Solid]:
    """A tall box with two doors of unequal height."""
    height = between(rng, 1.65, 1.95)
    joint = box((0, -0.33, height * 0.68), (0.6, 0.01, 0.02), "dark")
    handles = [
        box((-0.22, -0.35, z), (0.03, 0.03, 0.3), "metal") for z in (height * 0.3, height * 0.74)
    ]
    return [box((0, 0, 0), (0.6, 0.65, height), "white"), joint, *handles]


def dishwasher(rng: np.random.Generator) -> list[Solid]:
    """A low machine with a panel."""
    panel = box((0, -0.31, 0.74), (0.56, 0.02, 0.1), "dark")
    return [box((0, 0, 0), (0.6, 0.6, between(rng, 0.82, 0.88)), "metal"), panel]


def bar_counter(rng: np.random.Generator) -> list[Solid]:
    """A high counter with taps, and shelves of bottles behind."""
    width, height = between(rng, 2.0, 3.0), between(rng, 1.05, 1.15)
    bottles = [
        cylinder(
            (x, 0.95, z),
            0.08,
            between(rng, 0.22, 0.32),
            str(rng.choice(["glass", "accent", "dark"])),
        )
        for z in (1.2, 1.6)
        for x in row(int(width / 0.16), 0.16)
        if rng.random() < 0.8
    ]
    shelves = [box((0, 0.95, z - 0.04), (width, 0.22, 0.03), "wood") for z in (1.2, 1.6)]
    taps = [pole(x, 0, height, 0.3, "metal") for x in row(3, 0.2)]
    return [
        box((0, 0, 0), (width, 0.45, height), "wood"),  # front
        box((0, -0.05, height), (width + 0.1, 0.6, 0.05), "stone"),  # top
        *taps,
        *shelves,
        *bottles,
    ]


def wine_rack(rng: np.random.Generator) -> list[Solid]:
    """A grid of cells with the ends of bottles."""
    columns, rows, pitch = int(rng.integers(6, 10)), 8, 0.16
    width, height = columns * pitch, rows * pitch + 0.1
    ends = [
        box((x, -0.16, 0.14 + pitch * level), (0.07, 0.06, 0.07), "glass")
        for x in row(columns, pitch)
        for level in range(rows)
        if rng.random() < 0.75
    ]
    bars = [box((x, 0, 0), (0.02, 0.3, height), "wood") for x in row(columns + 1, pitch)]
    boards = [
        box((0, 0, 0.08 + pitch * level), (width, 0.3, 0.02), "wood") for level in range(rows + 1)
    ]
    return [*ends, *bars, *boards]


def toilet(rng: np.random.Generator) -> list[Solid]:
    """A bowl with a seat and a cistern."""
    bowl = Solid((0, -0.05, 0.2), (0.36, 0.46, 0.4), "white", round=True)
    seat = Solid((0, -0.05, 0.415), (0.4, 0.5, 0.03), "white", round=True)
    return [bowl, seat, box((0, 0.28, 0.38), (0.4, 0.18, between(rng, 0.35, 0.42)), "white")]


def basin(rng: np.random.Generator) -> list[Solid]:
    """A wash-basin on a foot, with a tap and a mirror."""
    height = between(rng, 0.8, 0.88)
    bowl = Solid((0, 0, height - 0.08), (0.55, 0.42, 0.16), "white", round=True)
    mirror = box((0, 0.22, 1.2), (0.5, 0.02, 0.7), "glass")
    return [
        bowl,
        pole(0, 0.15, height, 0.14, "metal"),  # tap
        box((0, 0.1, 0), (0.18, 0.18, height - 0.14), "white"),  # foot
        mirror,
    ]


def bathtub(rng: np.random.Generator) -> list[Solid]:
    """A long tub with a rim, and water in it."""
    width, depth, height = between(rng, 1.55, 1.75), 0.75, between(rng, 0.5, 0.58)
    rim = [box((0, s * (depth / 2 - 0.04), 0), (width, 0.08, height), "white") for s in (-1, 1)]
    ends = [box((s * (width / 2 - 0.05), 0, 0), (0.1, depth, height), "white") for s in (-1, 1)]
    water = box((0, 0, 0), (width - 0.1, depth - 0.1, height - 0.15), "water")
    return [*rim, *ends, water, pole(width / 2 - 0.05, 0, height, 0.2, "metal")]


def shower(rng: np.random.Generator) -> list[Solid]:
    """A tray with glass on two sides and a shower head."""
    side, height = between(rng, 0.8, 1.0), 2.0
    frame = [pole(sx * side / 2, -side / 2, 0, height, "metal") for sx in (-1, 1)]
    glass = box((-side / 2, 0, 0.1), (0.015, side, height - 0.15), "glass")
    head = [
        pole(0.1, side / 2 - 0.05, 0.9, 1.1, "metal"),
        cylinder((0.1, side / 2 - 0.2, 1.98), 0.22, 0.03, "metal"),
    ]
    return [box((0, 0, 0), (side, side, 0.1), "white"), *frame, glass, *head]


def washing_machine(rng: np.random.Generator) -> list[Solid]:
    """A white box with a round door; often two above each other."""
    solids: list[Solid] = []
    for level in range(1 + int(rng.random() < 0.35)):
        base = 0.86 * level
        # The door is a disc seen from the front: rings of boxes stand for it.
        door = [
            box((0, -0.3, base + 0.42 - r), (2 * (0.2**2 - r * r) ** 0.5, 0.03, 2 * r), "dark")
            for r in (0.06, 0.12, 0.17)
        ]
        panel = box((0.1, -0.3, base + 0.74), (0.3, 0.02, 0.06), "screen")
        solids += [box((0, 0, base), (0.6, 0.58, 0.85), "white"), *door, panel]
    return solids


def laundry_basket(rng: np.random.Generator) -> list[Solid]:
    """A round basket heaped with clothes."""
    height = between(rng, 0.4, 0.6)
    heap = [
        box((*rng.uniform(-0.1, 0.1, 2), height - 0.04), (0.22, 0.2, 0.12), m, between(rng, 0, 1))
        for m in ("fabric", "white", "accent")
    ]
    return [cylinder((0, 0, 0), 0.45, height, "wood"), *heap]


def ironing_board(rng: np.random.Generator) -> list[Solid]:
    """A narrow board on crossed legs with an iron."""
    height = between(rng, 0.8, 0.95)
    iron = box((0.25, 0, height), (0.22, 0.1, 0.12), "accent")
    return [board(1.25, 0.36, height, "fabric"), *legs(0.7, 0.4, height, 0.03, "metal"), iron]


def clothes_horse(rng: np.random.Generator) -> list[Solid]:
    """Lines of drying clothes between two frames."""
    width, height = between(rng, 1.1, 1.6), between(rng, 0.95, 1.15)
    lines = [box((0, y, height), (width, 0.02, 0.02), "metal") for y in row(6, 0.12)]
    hung = [
        box(
            (between(rng, -0.3, 0.3), y, height - drop),
            (between(rng, 0.3, 0.6), 0.02, drop),
            str(rng.choice(["white", "fabric", "accent"])),
        )
        for y in row(6, 0.12)
        if rng.random() < 0.7
        for drop in (between(rng, 0.3, 0.6),)  # one value, used twice
    ]
    return [*lines, *hung, *legs(width, 0.7, height, 0.03, "metal")]


MAKERS: dict[str, Maker] = {
    "kitchen counter": counter,
    "stove": stove,
    "fridge": fridge,
    "dishwasher": dishwasher,
    "bar counter": bar_counter,
    "wine rack": wine_rack,
    "toilet": toilet,
    "wash basin": basin,
    "bathtub": bathtub,
    "shower": shower,
    "washing machine": washing_machine,
    "laundry basket": laundry_basket,
    "ironing board": ironing_board,
    "clothes horse": clothes_horse,
}
