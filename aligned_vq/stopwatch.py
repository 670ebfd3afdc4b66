"""How long each stage took."""

from __future__ import annotations

import time

from aligned_vq.answers import Timings


class Stopwatch:
    """Started when made; `lap` names what ran since the last lap."""

    def __init__(self) -> None:
        self._laps: dict[str, int] = {}
        self._mark = time.perf_counter_ns()

    def lap(self, stage: str) -> None:
        """End a stage; a name used again adds up."""
        now = time.perf_counter_ns()
        self._laps[stage] = self._laps.get(stage, 0) + now - self._mark
        self._mark = now

    def timings(self) -> Timings:
        """Nanoseconds per stage so far, in order."""
        return Timings(dict(self._laps))
