"""Whether a target may be asked now: a circuit breaker, free of threads, network and clock."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

MAX_PAUSE_SECONDS = 10.0
REFUSED_SECONDS = 60.0

State = Literal["closed", "open", "trial"]


class Breaker:
    """Closed: ask it. Open: it failed too often in a row, leave it alone. Trial: it seems to be
    well again, one question at a time finds out; a failure opens it again, for twice as long.

    Failures of questions that ran at the same time count once: a service that is killed breaks all
    of them, which says no more than one of them does.

    Args:
        failures: in a row that open it.
        pause_seconds: before the first look at whether it is well again.
        clock: seconds that only grow.
    """

    def __init__(
        self, failures: int, pause_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._limit = failures
        self._first_pause = self._pause = pause_seconds
        self._clock = clock
        self._failures = 0
        self._look_at = 0.0
        self._refused = False
        self._state: State = "closed"
        self.mark = 0
        """Changes with every failure that counts; hand it to `failed` as it was when asking."""
        self.reason = ""
        """What the last failure said; empty after an answer."""

    @property
    def state(self) -> State:
        """A target that refused us is tried again after a while; others once they say so."""
        if self._refused and self._clock() >= self._look_at:
            self._state, self._refused = "trial", False
        return self._state

    def wants_look(self) -> bool:
        """Is it time to look whether the target is well?"""
        return self._state == "open" and not self._refused and self._clock() >= self._look_at

    def answered(self) -> None:
        """A question was answered, or began to be."""
        self._state, self._refused = "closed", False
        self._failures, self._pause, self.reason = 0, self._first_pause, ""

    def failed(self, mark: int, reason: str) -> None:
        """A question that began at `mark` failed in a way that another target might not."""
        self.reason = reason
        if mark != self.mark:
            return
        self.mark += 1
        self._failures += 1
        if self._state == "trial" or self._failures >= self._limit:
            self._leave_alone()

    def refused(self, reason: str) -> None:
        """It will never serve us as it is: wrong bundle, wrong service, unknown client."""
        self.reason = reason
        self.mark += 1
        self._state, self._refused = "open", True
        self._look_at = self._clock() + REFUSED_SECONDS

    def looked(self, trouble: str) -> None:
        """A look found that it is well again, or, open or not, what is the matter."""
        if self._refused:
            return
        if trouble:
            self.reason = trouble
            self.mark += 1  # what its questions say of it now is known
            self._leave_alone()
        elif self._state == "open":
            self._state = "trial"

    def _leave_alone(self) -> None:
        self._state = "open"
        self._look_at = self._clock() + self._pause
        self._pause = min(2 * self._pause, MAX_PAUSE_SECONDS)
