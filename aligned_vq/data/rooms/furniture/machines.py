"""Machines, vehicles and instruments."""

from __future__ import annotations

import numpy as np

from aligned_vq.data.rooms.furniture.making import Maker, between, board, legs, pole, row
from aligned_vq.data.rooms.solids import Solid, box, cylinder


def copier(rng: np.random.Generator) -> list[Solid]:
    """A large office printer with trays and a lid."""
    height = between(rng, 0.95, 1.15)
    trays = [box((0, -0.31, 0.1 + 0.17 * n), (0.5, 0.02, 0.13), "white") for n in range(3)]
    out = [
        box((-0.45, 0, height * 0.65), (0.3, 0.4, 0.03), "white"),  # output tray
        box((0, 0, height), (0.6, 0.56, 0.1), "dark"),  # lid
    ]
    return [
        box((0, 0, 0), (0.62, 0.6, height), "metal"),
        *trays,
        *out,
        box((0.2, -0.28, height + 0.1), (0.2, 0.08, 0.06), "screen"),  # control panel
    ]


def paper_stack(rng: np.random.Generator) -> list[Solid]:
    """Piles of paper on a low table."""
    piles = [box((x, 0, 0.72), (0.22, 0.3, between(rng, 0.05, 0.3)), "white") for x in row(4, 0.28)]
    return [*legs(1.2, 0.6, 0.72, 0.05, "metal"), board(1.2, 0.6, 0.72, "wood2"), *piles]


def server_rack(rng: np.random.Generator) -> list[Solid]:
    """Tall dark cabinets with rows of lights."""
    count, height = int(rng.integers(2, 5)), between(rng, 1.9, 2.1)
    lights = [
        box((x + dx, -0.51, z), (0.03, 0.01, 0.02), "screen")
        for x in row(count, 0.62)
        for z in np.arange(0.3, height - 0.1, 0.16)
        for dx in (-0.18, -0.1, 0.15)
        if rng.random() < 0.7
    ]
    slots = [
        box((x, -0.505, z), (0.5, 0.01, 0.1), "metal")
        for x in row(count, 0.62)
        for z in np.arange(0.2, height - 0.1, 0.16)
    ]
    return [
        *(box((x, 0, 0), (0.6, 1.0, height), "dark") for x in row(count, 0.62)),
        *slots,
        *lights,
    ]


def arcade(rng: np.random.Generator) -> list[Solid]:
    """A game machine: a cabinet with a sloping screen and a control shelf."""
    height = between(rng, 1.6, 1.8)
    shelf = box((0, -0.42, 0.9), (0.62, 0.3, 0.08), "dark")
    return [
        box((0, 0, 0), (0.66, 0.7, height), "accent"),
        box((0, -0.36, 1.1), (0.54, 0.02, 0.4), "screen"),
        shelf,
        box((0, -0.37, height - 0.2), (0.6, 0.03, 0.15), "lamp"),
    ]


def piano(rng: np.random.Generator) -> list[Solid]:
    """An upright piano with keys and a stool."""
    height = between(rng, 1.15, 1.3)
    keys = [
        box((0, -0.34, 0.72), (1.25, 0.16, 0.03), "white"),
        box((0, -0.3, 0.75), (1.2, 0.08, 0.02), "dark"),
    ]
    return [
        box((0, 0, 0), (1.45, 0.45, height), "dark"),
        box((0, -0.3, 0.62), (1.45, 0.3, 0.1), "dark"),  # keyboard
        *keys,
        box((0, -0.8, 0.42), (0.5, 0.34, 0.07), "fabric2"),  # stool
        pole(0, -0.8, 0, 0.42, "dark"),
    ]


def drums(rng: np.random.Generator) -> list[Solid]:
    """A drum kit with cymbals."""
    toms = [
        cylinder((x, y, z), d, 0.28, "accent")
        for x, y, z, d in ((-0.4, -0.1, 0.45, 0.36), (0.4, -0.1, 0.4, 0.42), (0, 0.1, 0.65, 0.32))
    ]
    cymbals = [
        s
        for x in (-0.65, 0.65)
        for s in (
            pole(x, 0.25, 0, between(rng, 1.1, 1.3), "metal"),
            cylinder((x, 0.25, 1.15), 0.5, 0.02, "lamp"),
        )
    ]
    return [
        Solid((0, 0.25, 0.3), (0.55, 0.4, 0.6), "accent"),  # bass drum
        *toms,
        *cymbals,
        cylinder((0, -0.6, 0), 0.34, 0.5, "dark"),  # stool
    ]


def loudspeakers(rng: np.random.Generator) -> list[Solid]:
    """Two tall loudspeakers."""
    height = between(rng, 0.9, 1.4)
    return [
        s
        for x in (-0.8, 0.8)
        for s in (
            box((x, 0, 0), (0.36, 0.34, height), "dark"),
            box((x, -0.18, height * 0.15), (0.26, 0.02, 0.26), "metal"),
            box((x, -0.18, height * 0.65), (0.2, 0.02, 0.2), "metal"),
        )
    ]


def car(rng: np.random.Generator) -> list[Solid]:
    """A car: body, cabin, wheels and lights."""
    length, width = between(rng, 3.6, 4.3), between(rng, 1.65, 1.8)
    wheels = [
        box((s * (width / 2 - 0.05), y, 0), (0.18, 0.6, 0.6), "dark")
        for s in (-1, 1)
        for y in (-length * 0.32, length * 0.32)
    ]
    lamps = [box((s * width * 0.36, -length / 2, 0.6), (0.25, 0.03, 0.14), "lamp") for s in (-1, 1)]
    return [
        box((0, 0, 0.28), (width, length, 0.55), "accent"),  # body
        box((0, 0.15, 0.83), (width * 0.86, length * 0.5, 0.5), "glass"),  # windows
        box((0, 0.15, 1.33), (width * 0.84, length * 0.46, 0.05), "accent"),  # roof
        *wheels,
        *lamps,
    ]


def bicycle(rng: np.random.Generator) -> list[Solid]:
    """Two thin wheels, a frame, a saddle and a bar."""
    # Cylinders are upright only, so a wheel is a box.
    wheels = [Solid((0, y, 0.33), (0.05, 0.62, 0.62), "dark") for y in (-0.52, 0.52)]
    return [
        *wheels,
        box((0, 0, 0.5), (0.04, 0.9, 0.05), "accent"),  # frame
        pole(0, 0.25, 0.3, between(rng, 0.55, 0.7), "accent"),
        box((0, 0.25, 0.95), (0.14, 0.24, 0.05), "dark"),  # saddle
        box((0, -0.45, 1.0), (0.52, 0.04, 0.04), "metal"),  # handlebars
        pole(0, -0.48, 0.4, 0.6, "accent"),  # fork
    ]


def dryer_hood(rng: np.random.Generator) -> list[Solid]:
    """A hairdresser's place: a mirror with lamps, a shelf and a dryer on a pole."""
    lamps = [
        cylinder((s * 0.4, 0.2, z), 0.08, 0.08, "lamp") for s in (-1, 1) for z in (1.1, 1.35, 1.6)
    ]
    dryer = [pole(0.75, -0.2, 0, 1.4, "metal"), cylinder((0.75, -0.2, 1.35), 0.4, 0.34, "white")]
    return [
        box((0, 0.25, 0.95), (0.7, 0.02, 0.85), "glass"),
        board(0.9, 0.3, 0.8, "wood"),
        *lamps,
        *dryer,
    ]


def boiler(rng: np.random.Generator) -> list[Solid]:
    """A round tank with pipes."""
    height = between(rng, 1.4, 1.8)
    pipes = [pole(s * 0.18, 0, height, 0.9, "metal") for s in (-1, 1)]
    return [
        cylinder((0, 0, 0.1), 0.62, height - 0.1, "metal"),
        *pipes,
        box((0, -0.32, 0.7), (0.25, 0.06, 0.3), "accent"),
    ]


def aquarium(rng: np.random.Generator) -> list[Solid]:
    """A tank of water on a stand."""
    width = between(rng, 0.8, 1.3)
    weeds = [
        box((x, 0, 0.75), (0.04, 0.04, between(rng, 0.15, 0.4)), "plant") for x in row(5, width / 6)
    ]
    return [
        box((0, 0, 0), (width, 0.45, 0.7), "wood2"),
        box((0, 0.02, 0.7), (width, 0.4, 0.5), "water"),
        *weeds,
    ]


MAKERS: dict[str, Maker] = {
    "copier": copier,
    "stacks of paper": paper_stack,
    "server rack": server_rack,
    "arcade machine": arcade,
    "piano": piano,
    "drum kit": drums,
    "loudspeakers": loudspeakers,
    "car": car,
    "bicycle": bicycle,
    "hairdryer": dryer_hood,
    "boiler": boiler,
    "aquarium": aquarium,
}
