"""Measurement of consecutive processing stages."""

from __future__ import annotations

import time

from aligned_vq.answers import Timings


class Stopwatch:
    """Starts on construction; each `lap` ends a stage and starts the next."""

    def __init__(self) -> None:
        self._laps: dict[str, int] = {}
        self._mark = time.perf_counter_ns()  # monotonic

    def lap(self, stage: str) -> None:
        """End the current stage under this name; durations of equal names are added."""
        now = time.perf_counter_ns()
        self._laps[stage] = self._laps.get(stage, 0) + now - self._mark
        self._mark = now

    def timings(self) -> Timings:
        """Durations of the stages ended so far, in order."""
        return Timings(dict(self._laps))
