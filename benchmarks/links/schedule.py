"""When bytes that enter a link come out of it: arithmetic alone, on whatever clock one has.

A token bucket of no depth (bytes follow each other at the link's rate, and nothing goes for free),
a delay, jitter that never reorders, and loss as a reader of TCP sees it. A lost segment comes one
round trip later, as by fast retransmission; if it is lost again, after a timeout of 200 ms or two
round trips, whichever is longer, which doubles. All that came after it waits, as TCP delivers in
order.

What this leaves out: slow start, smaller windows after a loss, and the bytes of repetitions. All
three cost a large upload more than a small one, so a sender of many bytes looks better here than it
is.
"""

from __future__ import annotations

import random

SEGMENT_BYTES = 1448
LEAST_TIMEOUT_S = 0.2


class Schedule:
    """One direction of a link.

    Args:
        rate_kbit: kbit/s; None where something else limits the rate.
        delay_ms: one way.
        jitter_ms: each piece is late by 0 to this.
        loss: share of segments lost.
        seed: of jitter and loss.
    """

    def __init__(
        self,
        rate_kbit: float | None,
        delay_ms: float,
        jitter_ms: float = 0.0,
        loss: float = 0.0,
        seed: int = 0,
    ) -> None:
        self._seconds_a_byte = 0.0 if rate_kbit is None else 8 / (1e3 * rate_kbit)
        self._delay_s = delay_ms / 1e3
        self._jitter_s = jitter_ms / 1e3
        self._loss = loss
        self._random = random.Random(seed)
        self._sent_s = self._arrived_s = float("-inf")

    def arrival_s(self, now_s: float, size_bytes: int) -> float:
        """When the last of `size_bytes` that enter at `now_s` comes out; never before what entered
        earlier."""
        self._sent_s = max(now_s, self._sent_s) + size_bytes * self._seconds_a_byte
        late_s = self._random.uniform(0.0, self._jitter_s) + self._repetition_s(size_bytes)
        self._arrived_s = max(self._arrived_s, self._sent_s + self._delay_s + late_s)
        return self._arrived_s

    def _repetition_s(self, size_bytes: int) -> float:
        """How much later the last of the bytes comes for what was lost of them."""
        segments = -(-size_bytes // SEGMENT_BYTES)
        if self._random.random() >= 1.0 - (1.0 - self._loss) ** segments:
            return 0.0
        waited_s = 2 * self._delay_s
        timeout_s = max(LEAST_TIMEOUT_S, 4 * self._delay_s)
        while self._random.random() < self._loss:
            waited_s += timeout_s
            timeout_s *= 2
        return waited_s
