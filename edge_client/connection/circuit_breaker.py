"""A circuit breaker: whether a target may receive requests. Free of threads and of the network."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Literal

MAX_PAUSE_SECONDS = 10.0
REFUSED_SECONDS = 60.0

State = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """The state of one target.

    - closed: the target receives requests.
    - open: it failed too often in a row and receives none.
    - half_open: a health check succeeded, so one request at a time may try. A success closes the
      circuit; a failure opens it again, for twice as long.

    Failures of concurrent requests count once: a killed service breaks all of them, which says no
    more about it than one failure does.

    Args:
        failures: consecutive failures that open the circuit.
        pause_seconds: time from opening to the first health check; doubles up to
            `MAX_PAUSE_SECONDS`.
        clock: monotonic time in seconds.
    """

    def __init__(
        self, failures: int, pause_seconds: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._max_failures = failures
        self._first_pause_seconds = self._pause_seconds = pause_seconds
        self._clock = clock
        self._failures = 0
        self._next_check_at = 0.0
        self._rejected = False
        self._state: State = "closed"
        self.generation = 0
        """Grows with every failure that counts. A request notes it before it starts, and passes it
        to `record_failure`, which so recognises requests that ran concurrently."""
        self.reason = ""
        """Message of the last failure; empty after a success."""

    @property
    def state(self) -> State:
        """The state now. After a rejection no health check can help: time alone half-opens it."""
        if self._rejected and self._clock() >= self._next_check_at:
            self._state, self._rejected = "half_open", False
        return self._state

    def is_check_due(self) -> bool:
        """Whether the target's health should be checked now."""
        return self._state == "open" and not self._rejected and self._clock() >= self._next_check_at

    def record_success(self) -> None:
        """An answer arrived or began: close the circuit."""
        self._state, self._rejected = "closed", False
        self._failures, self._pause_seconds, self.reason = 0, self._first_pause_seconds, ""

    def record_failure(self, generation: int, reason: str) -> None:
        """A request that started at `generation` failed in a way that another target might not."""
        self.reason = reason
        if generation != self.generation:
            return  # a concurrent request has counted this failure already
        self.generation += 1
        self._failures += 1
        if self._state == "half_open" or self._failures >= self._max_failures:
            self._open()

    def record_rejection(self, reason: str) -> None:
        """The target cannot serve this client as configured: wrong bundle, service or identity."""
        self.reason = reason
        self.generation += 1
        self._state, self._rejected = "open", True
        # A health check would succeed: only a new attempt shows that the rejection is over.
        self._next_check_at = self._clock() + REFUSED_SECONDS

    def record_health(self, problem: str) -> None:
        """A health check succeeded (empty `problem`), or failed, which opens the circuit."""
        if self._rejected:
            return
        # A closed circuit opens, too: a silent target that fails its check is no longer used.
        if problem:
            self.reason = problem
            # Requests in flight will fail for the reason recorded here: do not count them as well.
            self.generation += 1
            self._open()
        elif self._state == "open":
            self._state = "half_open"

    def _open(self) -> None:
        self._state = "open"
        self._next_check_at = self._clock() + self._pause_seconds
        self._pause_seconds = min(2 * self._pause_seconds, MAX_PAUSE_SECONDS)
