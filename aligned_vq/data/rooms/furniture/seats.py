"""Chairs, sofas, beds and benches."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def chair(rng: np.random.Generator) -> list[Solid]:
    """Four legs, a seat and a back."""
    width, seat, top = between(rng, 0.4, 0.5), between(rng, 0.42, 0.48), between(rng, 0.8, 1.0)
    back = box((0, width / 2 - 0.03, seat), (width, 0.04, top - seat), "wood")
    return [*legs(width, width, seat, 0.05, "wood"), board(width, width, seat, "wood"), back]


def stool(rng: np.random.Generator) -> list[Solid]:
    """A tall round seat on a pole."""
    height = between(rng, 0.6, 0.8)
    seat = cylinder((0, 0, height - 0.06), 0.36, 0.06, "accent")
    return [seat, pole(0, 0, 0, height, "metal"), cylinder((0, 0, 0), 0.4, 0.03, "metal")]


def office_chair(rng: np.random.Generator) -> list[Solid]:
    """A padded seat and a high back on one leg with a star foot."""
    seat, top = between(rng, 0.45, 0.52), between(rng, 1.0, 1.2)
    foot = [
        box((0, 0, 0.03), (0.6, 0.08, 0.05), "dark"),
        box((0, 0, 0.03), (0.08, 0.6, 0.05), "dark"),
    ]
    back = box((0, 0.22, seat + 0.08), (0.44, 0.08, top - seat - 0.08), "fabric2")
    cushion = box((0, 0, seat - 0.08), (0.48, 0.46, 0.1), "fabric2")
    return [*foot, pole(0, 0, 0, seat, "metal"), cushion, back]


def sofa(rng: np.random.Generator) -> list[Solid]:
    """A long low seat with arms and a back, in cushions."""
    width, depth = between(rng, 1.6, 2.4), between(rng, 0.8, 0.95)
    return _upholstered(width, depth, 3 if width > 2 else 2)


def armchair(rng: np.random.Generator) -> list[Solid]:
    """A sofa for one."""
    return _upholstered(between(rng, 0.8, 1.0), between(rng, 0.75, 0.9), 1)


def _upholstered(width: float, depth: float, cushions: int) -> list[Solid]:
    arms = [
        box((side * (width / 2 - 0.09), 0, 0), (0.18, depth, 0.6), "fabric") for side in (-1, 1)
    ]
    inner = width - 0.36
    seats = [
        box((x, -0.05, 0.28), (inner / cushions - 0.02, depth - 0.25, 0.16), "fabric2")
        for x in row(cushions, inner / cushions)
    ]
    base = box((0, 0, 0.05), (width, depth, 0.24), "fabric")
    back = box((0, depth / 2 - 0.12, 0.05), (width, 0.22, 0.8), "fabric")
    return [base, back, *arms, *seats]


def bed(rng: np.random.Generator) -> list[Solid]:
    """A mattress with pillows and a headboard against the wall."""
    width, length = between(rng, 0.9, 1.8), between(rng, 1.95, 2.15)
    count = 2 if width > 1.35 else 1
    pillows = [
        box((x, length / 2 - 0.3, 0.52), (0.55, 0.38, 0.12), "white") for x in row(count, 0.7)
    ]
    headboard = box((0, length / 2, 0), (width + 0.06, 0.06, between(rng, 0.8, 1.15)), "wood")
    frame = box((0, 0, 0.08), (width, length, 0.22), "wood")
    blanket = box((0, -0.25, 0.3), (width + 0.02, length - 0.5, 0.25), "fabric")
    mattress = box((0, 0, 0.3), (width - 0.02, length, 0.22), "white")
    return [frame, mattress, blanket, headboard, *pillows]


def bunk_bed(rng: np.random.Generator) -> list[Solid]:
    """Two beds above each other between four posts, and a ladder."""
    width, length, top = 0.95, 2.0, between(rng, 1.6, 1.9)
    solids = legs(width, length, top, 0.07, "metal")
    for height in (0.35, top - 0.35):
        solids += [
            box((0, 0, height), (width, length, 0.2), "white"),
            box((0, 0, height - 0.06), (width, length, 0.06), "wood"),
        ]
    rungs = [
        box((width / 2, -0.7, z), (0.04, 0.4, 0.03), "metal") for z in np.arange(0.3, top, 0.3)
    ]
    return [*solids, *rungs]


def cot(rng: np.random.Generator) -> list[Solid]:
    """A baby's bed behind bars."""
    width, length, top = 0.65, 1.25, between(rng, 0.85, 1.0)
    bars = [
        pole(x, y, 0.3, top - 0.3, "white")
        for y in (-length / 2, length / 2)
        for x in row(6, width / 5)
    ] + [
        pole(x, y, 0.3, top - 0.3, "white")
        for x in (-width / 2, width / 2)
        for y in row(10, length / 9)
    ]
    mattress = box((0, 0, 0.35), (width, length, 0.12), "accent")
    return [*legs(width, length, top, 0.06, "white"), *bars, mattress]


def hospital_bed(rng: np.random.Generator) -> list[Solid]:
    """A high bed with a raised head, side rails, wheels and a drip."""
    width, length, height = 0.95, 2.0, between(rng, 0.6, 0.75)
    rails = [
        box((side * width / 2, -0.1, height + 0.1), (0.03, 1.0, 0.25), "metal") for side in (-1, 1)
    ]
    drip = [pole(width / 2 + 0.25, length / 2, 0, 1.8, "metal")]
    bag = box((width / 2 + 0.25, length / 2, 1.5), (0.14, 0.05, 0.22), "glass")
    # The raised head, in steps, because solids cannot be tilted.
    raised = [
        box((0, 0.45 + 0.16 * step, height + 0.14 * step), (width - 0.1, 0.2, 0.14), "white")
        for step in range(4)
    ]
    lying = box((0, -0.2, height - 0.1), (width, length - 0.3, 0.14), "white")
    return [*legs(width, length, height - 0.1, 0.06, "metal"), lying, *raised, *rails, *drip, bag]


def bench(rng: np.random.Generator) -> list[Solid]:
    """A long seat without a back."""
    width = between(rng, 1.2, 2.0)
    return [
        board(width, 0.38, 0.46, "wood", 0.06),
        *(box((side * width * 0.4, 0, 0), (0.08, 0.34, 0.42), "metal") for side in (-1, 1)),
    ]


def pew(rng: np.random.Generator) -> list[Solid]:
    """A long wooden bench with a closed back and ends."""
    width = between(rng, 2.2, 3.2)
    ends = [box((side * width / 2, 0, 0), (0.07, 0.5, 0.95), "wood") for side in (-1, 1)]
    return [
        board(width, 0.42, 0.46, "wood", 0.05),
        box((0, 0.22, 0), (width, 0.05, 0.92), "wood"),
        *ends,
    ]


def sauna_bench(rng: np.random.Generator) -> list[Solid]:
    """Two steps of slats."""
    width = between(rng, 1.8, 2.6)
    return [
        box((0, y, z - 0.05), (width, 0.09, 0.05), "wood")
        for z, start in ((0.45, -0.45), (0.9, 0.05))
        for y in (start + 0.11 * np.arange(5))
    ]


def recliner(rng: np.random.Generator) -> list[Solid]:
    """A dentist's or hairdresser's chair: a sloping padded couch on one thick foot."""
    height = between(rng, 0.5, 0.6)
    # A slope in steps, because solids cannot be tilted.
    slope = [
        box((0, -0.5 + 0.28 * step, height + rise), (0.55, 0.3, 0.12), "fabric2")
        for step, rise in enumerate((-0.08, 0.0, 0.0, 0.16, 0.34))
    ]
    return [
        cylinder((0, 0, 0), 0.6, 0.08, "metal"),
        cylinder((0, 0, 0), 0.25, height, "metal"),
        *slope,
    ]


MAKERS: dict[str, Maker] = {
    "chair": chair,
    "stool": stool,
    "office chair": office_chair,
    "sofa": sofa,
    "armchair": armchair,
    "bed": bed,
    "bunk bed": bunk_bed,
    "cot": cot,
    "hospital bed": hospital_bed,
    "bench": bench,
    "pew": pew,
    "sauna bench": sauna_bench,
    "treatment chair": recliner,
}
