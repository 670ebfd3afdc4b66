"""Figures as PNG, of one appearance; equal data give equal bytes.

Colours are those of Okabe and Ito, which colour-blind people can distinguish; lines also differ in
their markers or dash patterns.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from aligned_vq.files.atomic_file import new_file

_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_MARKERS = "osD^vPXd<>*h"
_DASHES = ("-", "--", "-.", ":")
_SETTINGS: Any = {  # matplotlib's stubs list every key
    "font.family": "DejaVu Sans",  # comes with matplotlib
    "font.size": 9.0,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "legend.fontsize": 8.0,
    "legend.frameon": False,
}


def line_style(number: int, marker: bool = True) -> dict[str, Any]:
    """Colour, dash pattern and marker of line `number` of a figure; 28 are distinct."""
    style: dict[str, Any] = {"color": _COLOURS[number % len(_COLOURS)]}
    style["ls"] = _DASHES[number // len(_COLOURS) % len(_DASHES)]
    return style | ({"marker": _MARKERS[number % len(_MARKERS)], "ms": 5} if marker else {})


def save_figure(
    draw: Callable[[Figure], None], stem: Path, size: tuple[float, float] = (6.4, 4.0)
) -> Path:
    """Draw a figure of `size` inches, write it as `stem`.png (150 dpi) and return its path."""
    path = stem.with_name(f"{stem.name}.png")
    with matplotlib.rc_context(_SETTINGS):
        figure = Figure(figsize=size, layout="constrained")  # without pyplot: no display, no state
        draw(figure)
        with new_file(path) as temporary:
            # Without the version of matplotlib, which is a part of the metadata by default.
            figure.savefig(temporary, dpi=150, metadata={"Software": None})
    return path
