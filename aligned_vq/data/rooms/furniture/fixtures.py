"""Stairs, pillars, lamps, plants and counters."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def stairs(rng: np.random.Generator) -> list[Solid]:
    """Steps that rise away from the viewer, with a rail."""
    width, count = between(rng, 1.1, 1.8), int(rng.integers(8, 13))
    rise, tread = between(rng, 0.16, 0.19), between(rng, 0.26, 0.31)
    # A step is a block from the floor.
    steps = [
        box((0, tread * n - count * tread / 2, 0), (width, tread, rise * (n + 1)), "stone")
        for n in range(count)
    ]
    posts = [
        pole(width / 2 - 0.06, tread * n - count * tread / 2, rise * (n + 1), 0.9, "metal")
        for n in range(0, count, 2)
    ]
    return [*steps, *posts]


def floor_lamp(rng: np.random.Generator) -> list[Solid]:
    """A pole with a shade."""
    height = between(rng, 1.4, 1.8)
    return [
        cylinder((0, 0, 0), 0.28, 0.03, "metal"),  # foot
        pole(0, 0, 0, height, "metal"),
        cylinder((0, 0, height - 0.05), 0.38, 0.28, "lamp"),  # shade
    ]


def pendant(rng: np.random.Generator) -> list[Solid]:
    """A lamp that hangs low."""
    height = between(rng, 1.55, 1.8)
    return [pole(0, 0, height, 1.0, "dark"), cylinder((0, 0, height), 0.42, 0.22, "lamp")]


def plant(rng: np.random.Generator) -> list[Solid]:
    """A pot with leaves."""
    height = between(rng, 0.7, 1.5)
    leaves = [
        box(
            (*rng.uniform(-0.2, 0.2, 2), between(rng, 0.35, height)),
            (0.3, 0.05, 0.22),
            "plant",
            between(rng, 0, 3.1),
        )
        for _ in range(12)
    ]
    return [
        cylinder((0, 0, 0), 0.34, 0.34, "accent"),  # pot
        pole(0, 0, 0.3, height - 0.3, "wood"),  # stem
        *leaves,
    ]


def flower_bed(rng: np.random.Generator) -> list[Solid]:
    """A raised bed of plants under glass."""
    width = between(rng, 1.6, 2.4)
    leaves = [
        box(
            (between(rng, -width / 2.2, width / 2.2), between(rng, -0.3, 0.3), 0.6),
            (0.2, 0.05, between(rng, 0.15, 0.5)),
            str(rng.choice(["plant", "plant", "accent"])),
            between(rng, 0, 3.1),
        )
        for _ in range(30)
    ]
    return [box((0, 0, 0), (width, 0.8, 0.6), "wood"), *leaves]


def reception(rng: np.random.Generator) -> list[Solid]:
    """A high curved front with a lower desk behind and a bell."""
    width = between(rng, 1.8, 2.8)
    front = box((0, -0.3, 0), (width, 0.12, 1.12), "wood2")
    wings = [box((s * width / 2, 0.1, 0), (0.12, 0.9, 1.12), "wood2") for s in (-1, 1)]
    top = box((0, -0.3, 1.12), (width + 0.2, 0.36, 0.05), "stone")
    return [
        front,
        *wings,
        top,
        board(width, 0.6, 0.75, "wood"),  # desk behind
        cylinder((0.4, -0.3, 1.17), 0.1, 0.06, "metal"),  # bell
    ]


def pillar(rng: np.random.Generator) -> list[Solid]:
    """A round pillar to the ceiling."""
    diameter = between(rng, 0.35, 0.55)
    return [
        cylinder((0, 0, 0), diameter, 4.0, "stone"),  # the ceiling hides what is above it
        cylinder((0, 0, 0), diameter * 1.4, 0.15, "stone"),  # base
    ]


def altar(rng: np.random.Generator) -> list[Solid]:
    """A cloth-covered table with candles, and a cross behind."""
    candles = [cylinder((x, 0, 1.0), 0.06, between(rng, 0.2, 0.35), "lamp") for x in (-0.6, 0.6)]
    cross = [
        box((0, 0.6, 1.2), (0.12, 0.08, 1.2), "wood"),
        box((0, 0.6, 1.95), (0.7, 0.08, 0.12), "wood"),
    ]
    return [
        box((0, 0, 0), (1.8, 0.7, 1.0), "white"),
        box((0, -0.36, 0.2), (0.4, 0.02, 0.8), "accent"),  # cloth
        *candles,
        *cross,
    ]


def stage(rng: np.random.Generator) -> list[Solid]:
    """A raised floor with curtains at both sides."""
    width = between(rng, 3.0, 4.2)
    curtains = [
        box((s * (width / 2 - 0.15 * n), 0.5, 0.5), (0.12, 0.1 + 0.05 * (n % 2), 2.2), "fabric")
        for s in (-1, 1)
        for n in range(4)
    ]
    return [box((0, 0, 0), (width, 1.6, 0.5), "wood"), *curtains]


def pool(rng: np.random.Generator) -> list[Solid]:
    """A basin of water with a rim, lane lines and a ladder."""
    width, length = between(rng, 2.4, 3.4), between(rng, 3.0, 4.0)
    lanes = [box((x, 0, 0.13), (0.06, length, 0.02), "accent") for x in row(3, width / 3.5)]
    rim = [box((s * width / 2, 0, 0), (0.25, length + 0.25, 0.16), "stone") for s in (-1, 1)] + [
        box((0, s * length / 2, 0), (width, 0.25, 0.16), "stone") for s in (-1, 1)
    ]
    rails = [pole(width / 2 + dx, -length / 4, 0, 0.8, "metal") for dx in (-0.2, 0.2)]
    return [box((0, 0, 0), (width, length, 0.12), "water"), *lanes, *rim, *rails]


def turnstile(rng: np.random.Generator) -> list[Solid]:
    """Low metal blocks with a bar between them."""
    count = int(rng.integers(2, 4))
    blocks = [box((x, 0, 0), (0.22, 0.9, 1.0), "metal") for x in row(count, 0.85)]
    arms = [box((x + 0.3, 0, 0.85), (0.45, 0.05, 0.05), "metal") for x in row(count, 0.85)[:-1]]
    return [*blocks, *arms]


def counter_queue(rng: np.random.Generator) -> list[Solid]:
    """Posts with belts between them."""
    count = int(rng.integers(3, 5))
    posts = [pole(x, 0, 0, 1.0, "metal") for x in row(count, 0.9)]
    belts = [box((x + 0.45, 0, 0.88), (0.86, 0.015, 0.07), "accent") for x in row(count, 0.9)[:-1]]
    return [*posts, *belts, *(cylinder((x, 0, 0), 0.3, 0.03, "metal") for x in row(count, 0.9))]


def checkout(rng: np.random.Generator) -> list[Solid]:
    """A cash desk with a belt and a till."""
    width = between(rng, 1.4, 2.0)
    return [
        *legs(width, 0.6, 0.8, 0.06, "metal"),
        box((0, 0, 0.1), (width, 0.56, 0.75), "white"),
        box((-0.2, 0, 0.85), (width * 0.6, 0.4, 0.03), "dark"),  # belt
        box((width / 2 - 0.25, 0, 0.85), (0.3, 0.3, 0.3), "dark"),  # till
    ]


MAKERS: dict[str, Maker] = {
    "stairs": stairs,
    "floor lamp": floor_lamp,
    "hanging lamp": pendant,
    "plant": plant,
    "flower bed": flower_bed,
    "reception desk": reception,
    "pillar": pillar,
    "altar": altar,
    "stage": stage,
    "swimming pool": pool,
    "turnstile": turnstile,
    "queue barrier": counter_queue,
    "cash desk": checkout,
}
