"""Bandwidths at which one system stops being faster than another, from measured points."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable


def crossings(points: Iterable[tuple[float, float]], level: float = 1.0) -> list[float]:
    """Bandwidths at which the speed-up crosses `level` in either direction, in ascending order.

    Interpolates linearly between measured points on logarithmic axes. A point at the level itself
    counts once.

    Args:
        points: bandwidth and speed-up, both positive, in any order.
        level: the speed-up to cross.
    """
    # In logarithms, relative to the level: a crossing is a change of sign.
    ordered = [(math.log(x), math.log(y / level)) for x, y in sorted(points)]
    bandwidths = []
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if y0 * y1 < 0:
            bandwidths.append(math.exp(x0 + (x1 - x0) * y0 / (y0 - y1)))
        elif y1 == 0 and y0 != 0:
            bandwidths.append(math.exp(x1))
    if ordered and ordered[0][1] == 0:
        bandwidths.insert(0, math.exp(ordered[0][0]))
    return bandwidths


def pays_up_to(points: Iterable[tuple[float, float]], level: float = 1.0) -> float | None:
    """The bandwidth up to which every speed-up is at least `level`.

    Infinite if every measured speed-up is; None if that at the lowest bandwidth is not.
    """
    ordered = sorted(points)
    if not ordered or ordered[0][1] < level:
        return None
    for (x0, y0), (x1, y1) in itertools.pairwise(ordered):
        if y1 < level:
            # A point at the level itself is the crossing; nothing can be interpolated there.
            return x0 if y0 == level else crossings([(x0, y0), (x1, y1)], level)[0]
    return math.inf
