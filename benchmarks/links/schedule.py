"""Arrival times of bytes on a link: arithmetic only, for any clock.

The model: a token bucket without depth (bytes follow each other at the link's rate, without a
burst), a delay, jitter that never reorders, and loss as a TCP receiver experiences it. A lost
segment arrives one round trip later, as by fast retransmission; if it is lost again, after a
timeout of 200 ms or two round trips, whichever is longer, which doubles each time. Everything sent
after it waits, because TCP delivers in order.

Not modelled: slow start, smaller windows after a loss, and the bytes of retransmissions. All three
cost a large upload more than a small one, so large uploads look better here than on a real link.
"""

from __future__ import annotations

import random

SEGMENT_BYTES = 1448
MIN_TIMEOUT_S = 0.2


class Schedule:
    """One direction of a link.

    Args:
        rate_kbit: rate in kbit/s; None: unlimited.
        delay_ms: one-way delay.
        jitter_ms: largest additional delay; uniform between 0 and this for each piece.
        loss: share of segments that are lost.
        seed: for jitter and loss.
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
        """The time at which the last of `size_bytes` that enter at `now_s` arrives; never before
        the arrival of bytes that entered earlier."""
        # The link is busy until `_sent_s`; bytes that enter earlier queue behind the others.
        self._sent_s = max(now_s, self._sent_s) + size_bytes * self._seconds_a_byte
        extra_s = self._random.uniform(0.0, self._jitter_s) + self._retransmission_s(size_bytes)
        self._arrived_s = max(self._arrived_s, self._sent_s + self._delay_s + extra_s)
        return self._arrived_s

    def _retransmission_s(self, size_bytes: int) -> float:
        """Seconds that lost segments add to the arrival of the last of the bytes."""
        segments = -(-size_bytes // SEGMENT_BYTES)
        # One draw for all segments: the probability that at least one of them is lost.
        if self._random.random() >= 1.0 - (1.0 - self._loss) ** segments:
            return 0.0
        waited_s = 2 * self._delay_s
        timeout_s = max(MIN_TIMEOUT_S, 4 * self._delay_s)
        while self._random.random() < self._loss:
            waited_s += timeout_s
            timeout_s *= 2
        return waited_s
