"""Shelves, cupboards, boxes and what they hold."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def _frame(width: float, depth: float, height: float, levels: int, material: str) -> list[Solid]:
    sides = [box((s * width / 2, 0, 0), (0.03, depth, height), material) for s in (-1, 1)]
    boards = [
        box((0, 0, z), (width, depth, 0.03), material)
        for z in np.linspace(0.05, height - 0.03, levels)
    ]
    return [*sides, *boards, box((0, depth / 2, 0), (width, 0.02, height), material)]


def bookshelf(rng: np.random.Generator) -> list[Solid]:
    """A tall shelf full of books."""
    width, height, levels = between(rng, 0.8, 1.2), between(rng, 1.7, 2.2), 6
    pitch = (height - 0.08) / (levels - 1)
    books = []
    for level in range(levels - 1):
        filled = width * between(rng, 0.6, 0.97)
        books.append(
            box(
                (-(width - filled) / 2, -0.02, 0.08 + level * pitch),
                (filled, 0.22, pitch * 0.75),
                "books",
            )
        )
    return [*_frame(width, 0.3, height, levels, "wood"), *books]


def rack(rng: np.random.Generator) -> list[Solid]:
    """Metal shelves with boxes and jars."""
    width, height = between(rng, 0.9, 1.3), between(rng, 1.6, 2.1)
    solids = legs(width, 0.45, height, 0.04, "metal")
    for z in np.arange(0.1, height, 0.45):
        solids.append(box((0, 0, z), (width, 0.45, 0.03), "metal"))
        for x in row(3, width / 3.2):
            if rng.random() < 0.7:
                size = (between(rng, 0.15, 0.3), 0.3, between(rng, 0.12, 0.34))
                solids.append(
                    box((x, 0, z + 0.03), size, str(rng.choice(["cardboard", "accent", "white"])))
                )
    return solids


def wardrobe(rng: np.random.Generator) -> list[Solid]:
    """A tall cupboard with two doors."""
    width, height = between(rng, 1.0, 1.8), between(rng, 1.9, 2.25)
    handles = [box((s * 0.06, -0.31, height / 2), (0.03, 0.02, 0.18), "metal") for s in (-1, 1)]
    joint = box((0, -0.3, 0.05), (0.015, 0.01, height - 0.1), "dark")
    return [box((0, 0, 0), (width, 0.6, height), "wood2"), joint, *handles]


def chest(rng: np.random.Generator) -> list[Solid]:
    """A chest of drawers."""
    width, height, count = between(rng, 0.8, 1.1), between(rng, 0.75, 1.0), 4
    fronts = [
        box(
            (0, -0.23, 0.06 + (height - 0.1) / count * n),
            (width - 0.06, 0.02, (height - 0.1) / count - 0.03),
            "wood",
        )
        for n in range(count)
    ]
    return [box((0, 0, 0), (width, 0.45, height), "wood2"), *fronts]


def nightstand(rng: np.random.Generator) -> list[Solid]:
    """A small cupboard with a lamp."""
    height = between(rng, 0.45, 0.6)
    lamp = [pole(0, 0, height, 0.25, "metal"), cylinder((0, 0, height + 0.22), 0.24, 0.18, "lamp")]
    return [box((0, 0, 0), (0.42, 0.38, height), "wood"), *lamp]


def filing_cabinet(rng: np.random.Generator) -> list[Solid]:
    """A narrow metal cabinet of drawers."""
    height = between(rng, 1.0, 1.4)
    fronts = [
        box(
            (0, -0.31, 0.05 + n * (height - 0.1) / 4),
            (0.4, 0.02, (height - 0.1) / 4 - 0.03),
            "white",
        )
        for n in range(4)
    ]
    return [box((0, 0, 0), (0.46, 0.6, height), "metal"), *fronts]


def coat_rail(rng: np.random.Generator) -> list[Solid]:
    """A rail full of clothes."""
    width, height = between(rng, 1.2, 2.0), between(rng, 1.6, 1.8)
    clothes = [
        box(
            (x, 0, height - drop),
            (0.05, 0.42, drop - 0.04),
            str(rng.choice(["fabric", "fabric2", "accent", "white", "dark"])),
        )
        for x in np.arange(-width / 2 + 0.1, width / 2 - 0.08, 0.09)
        for drop in (between(rng, 0.7, 1.15),)  # one value, used twice
    ]
    ends = [pole(s * width / 2, 0, 0, height, "metal") for s in (-1, 1)]
    return [*clothes, *ends, box((0, 0, height), (width, 0.04, 0.04), "metal")]


def shoe_rack(rng: np.random.Generator) -> list[Solid]:
    """Two low boards of shoes."""
    width = between(rng, 0.8, 1.2)
    shoes = [
        box((x, 0, z), (0.09, 0.26, 0.09), str(rng.choice(["dark", "accent", "wood"])))
        for z in (0.17, 0.42)
        for x in row(int(width / 0.13), 0.13)
    ]
    return [
        *(box((0, 0, z), (width, 0.32, 0.02), "wood") for z in (0.15, 0.4)),
        *legs(width, 0.3, 0.5, 0.03, "wood"),
        *shoes,
    ]


def cardboard_boxes(rng: np.random.Generator) -> list[Solid]:
    """A pile of boxes."""
    solids, height = [], 0.0
    for _ in range(int(rng.integers(1, 4))):
        size = (between(rng, 0.35, 0.65), between(rng, 0.35, 0.6), between(rng, 0.25, 0.45))
        solids.append(
            box((*rng.uniform(-0.06, 0.06, 2), height), size, "cardboard", between(rng, -0.4, 0.4))
        )
        height += size[2]
    return solids


def barrels(rng: np.random.Generator) -> list[Solid]:
    """Upright barrels with hoops."""
    count = int(rng.integers(2, 5))
    solids = []
    for x in row(count, 0.66):
        solids += [
            cylinder((x, 0, 0), 0.58, 0.9, "wood"),
            cylinder((x, 0, 0.2), 0.6, 0.05, "metal"),
            cylinder((x, 0, 0.65), 0.6, 0.05, "metal"),
        ]
    return solids


def lockers(rng: np.random.Generator) -> list[Solid]:
    """Narrow metal doors side by side."""
    count, height = int(rng.integers(4, 8)), between(rng, 1.7, 1.95)
    doors = [box((x, -0.24, 0.08), (0.27, 0.02, height - 0.14), "accent") for x in row(count, 0.31)]
    slits = [box((x, -0.255, height - 0.3), (0.16, 0.01, 0.03), "dark") for x in row(count, 0.31)]
    return [box((0, 0, 0), (0.31 * count + 0.04, 0.45, height), "metal"), *doors, *slits]


def pigeonholes(rng: np.random.Generator) -> list[Solid]:
    """A wall of small open compartments with letters."""
    columns, rows, pitch = int(rng.integers(5, 9)), 7, 0.24
    width, base = columns * pitch, 0.6
    upright = [
        box((x, 0, base), (0.02, 0.3, rows * pitch), "wood") for x in row(columns + 1, pitch)
    ]
    flat = [
        box((0, 0, base + pitch * level), (width, 0.3, 0.02), "wood") for level in range(rows + 1)
    ]
    letters = [
        box((x, -0.05, base + 0.02 + pitch * level), (0.17, 0.2, between(rng, 0.02, 0.1)), "white")
        for x in row(columns, pitch)
        for level in range(rows)
        if rng.random() < 0.6
    ]
    return [box((0, 0.05, 0), (width, 0.35, base), "wood2"), *upright, *flat, *letters]


def shop_shelf(rng: np.random.Generator) -> list[Solid]:
    """A long low double-sided shelf of coloured packets."""
    width, height = between(rng, 1.8, 2.8), between(rng, 1.3, 1.6)
    goods = [
        box(
            (x, side * 0.22, z),
            (between(rng, 0.1, 0.2), 0.2, between(rng, 0.14, 0.28)),
            str(rng.choice(["accent", "white", "books", "fabric"])),
        )
        for z in np.arange(0.2, height - 0.2, 0.36)
        for side in (-1, 1)
        for x in row(int(width / 0.26), 0.26)
        if rng.random() < 0.85
    ]
    boards = [
        box((0, 0, z - 0.04), (width, 0.7, 0.03), "metal") for z in np.arange(0.2, height, 0.36)
    ]
    return [box((0, 0, 0), (width, 0.06, height), "metal"), *boards, *goods]


def pallet(rng: np.random.Generator) -> list[Solid]:
    """A pallet stacked with cartons."""
    slats = [box((x, 0, 0.1), (0.12, 1.0, 0.03), "wood") for x in row(6, 0.2)]
    feet = [box((x, 0, 0), (0.1, 1.0, 0.1), "wood") for x in (-0.5, 0, 0.5)]
    cartons = [
        box((x, y, 0.13 + 0.36 * level), (0.55, 0.46, 0.34), "cardboard")
        for level in range(int(rng.integers(2, 5)))
        for x in (-0.29, 0.29)
        for y in (-0.24, 0.24)
        if level < 2 or rng.random() < 0.7
    ]
    return [*slats, *feet, *cartons]


MAKERS: dict[str, Maker] = {
    "bookshelf": bookshelf,
    "rack": rack,
    "wardrobe": wardrobe,
    "chest of drawers": chest,
    "nightstand": nightstand,
    "filing cabinet": filing_cabinet,
    "coat rail": coat_rail,
    "shoe rack": shoe_rack,
    "cardboard boxes": cardboard_boxes,
    "barrels": barrels,
    "lockers": lockers,
    "pigeonholes": pigeonholes,
    "shop shelf": shop_shelf,
    "pallet": pallet,
}
