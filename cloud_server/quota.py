"""How much each identity may ask: a rate with bursts, and a number of questions at once."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from aligned_vq.errors import QuotaExceeded

PLACE_SECONDS = 1.0
"""Wait to suggest when all places of an identity are taken: nobody knows when one gets free."""
MAX_IDENTITIES = 10_000
_ROUNDING = 1e-9


class TokenBucket:
    """Holds up to `burst` tokens and gains `rate` a second; full at first.

    Args:
        rate: tokens gained a second.
        burst: most tokens held.
        now: seconds on the clock of all later calls.
    """

    def __init__(self, rate: float, burst: float, now: float) -> None:
        self._rate = rate
        self._burst = burst
        self._tokens = burst
        self._seen = now

    def wait(self, now: float) -> float:
        """Seconds until a token is there; 0 if one is."""
        self._refill(now)
        missing = 1 - self._tokens
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        """Take a token that `wait` said is there."""
        self._refill(now)
        self._tokens -= 1

    def full(self, now: float) -> bool:
        """Is it as a new one would be?"""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        self._tokens = min(self._burst, self._tokens + self._rate * max(0.0, now - self._seen))
        self._seen = now


@dataclass
class _Account:
    """What an identity has used."""

    bucket: TokenBucket | None
    running: int = 0

    def idle(self, now: float) -> bool:
        """Would forgetting it change nothing?"""
        return not self.running and (self.bucket is None or self.bucket.full(now))


class Quotas:
    """Counts questions by identity. Used from one thread only.

    An identity that is idle is forgotten, so memory follows who asks now, not who ever asked.

    Args:
        per_second: questions of one identity in the long run; 0 is no limit.
        burst: questions at once after a pause; 0 is one second's worth, at least one.
        at_once: questions of one identity in flight; 0 is no limit.
        clock: seconds that only grow, whatever is done to the time of day.
        max_identities: most to remember; one with nothing in flight is forgotten beyond that.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        max_identities: int = MAX_IDENTITIES,
    ) -> None:
        self._per_second = per_second
        self._burst = burst or max(1, math.ceil(per_second))
        self._at_once = at_once
        self._clock = clock
        self._max_identities = max_identities
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, identity: str) -> None:
        """Count a question that starts; `leave` when it ends.

        Raises:
            QuotaExceeded: it is one too many, and does not count.
        """
        now = self._clock()
        account = self._account(identity, now)
        if self._at_once and account.running >= self._at_once:
            raise QuotaExceeded(
                f"expected at most {self._at_once} questions of {identity} at once, got one more; "
                "wait for one of them to end",
                PLACE_SECONDS,
            )
        if account.bucket is not None:
            wait = account.bucket.wait(now)
            if wait > 0:
                raise QuotaExceeded(
                    f"expected at most {self._per_second:g} questions of {identity} a second, "
                    f"{self._burst} after a pause, got one more; ask again in {wait:.3g} s",
                    wait,
                )
            account.bucket.take(now)
        account.running += 1

    def leave(self, identity: str) -> None:
        """A question that `enter` counted has ended."""
        self._accounts[identity].running -= 1

    def _account(self, identity: str, now: float) -> _Account:
        found = self._accounts.get(identity)
        if found is None:
            self._forget(now)
            bucket = TokenBucket(self._per_second, self._burst, now) if self._per_second else None
            found = self._accounts[identity] = _Account(bucket)
        self._accounts.move_to_end(identity)
        return found

    def _forget(self, now: float) -> None:
        """Let go of those idle for longest, and of others too where there are too many."""
        while self._accounts and next(iter(self._accounts.values())).idle(now):
            self._accounts.popitem(last=False)
        if len(self._accounts) >= self._max_identities:
            resting = (name for name, account in self._accounts.items() if not account.running)
            self._accounts.pop(next(resting, ""), None)
