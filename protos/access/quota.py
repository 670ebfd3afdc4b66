"""How much each identity may ask: a rate with bursts, and a number of questions at once."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from aligned_vq.errors import QuotaExceeded

PLACE_SECONDS = 1.0
"""Wait to suggest when all places of an identity are taken: nobody knows when one gets free."""
MAX_IDENTITIES = 10_000
_ROUNDING = 1e-9

LIMITS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {"per_second": float, "burst": int, "at_once": int}
)
"""What one identity may have other limits of than everybody, and how each is read from text."""
OwnLimits = Mapping[str, float]
"""Some of `LIMITS`, and their values."""
NO_LIMITS: OwnLimits = MappingProxyType({})


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


@dataclass(frozen=True)
class _Limits:
    """Of one identity; 0 is none."""

    per_second: float
    burst: float
    at_once: float

    def bucket(self, now: float) -> TokenBucket | None:
        """A full one, if the rate is limited."""
        return TokenBucket(self.per_second, self.room, now) if self.per_second else None

    @property
    def room(self) -> float:
        """Of the bucket."""
        return self.burst or max(1, math.ceil(self.per_second))


@dataclass
class _Account:
    """What an identity has used."""

    limits: _Limits
    own: OwnLimits
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
        noun: what is counted, for people.
    """

    def __init__(
        self,
        per_second: float,
        burst: int,
        at_once: int,
        clock: Callable[[], float] = time.monotonic,
        max_identities: int = MAX_IDENTITIES,
        noun: str = "questions",
    ) -> None:
        self._limits = _Limits(per_second, burst, at_once)
        self._clock = clock
        self._max_identities = max_identities
        self._noun = noun
        self._accounts: OrderedDict[str, _Account] = OrderedDict()

    def __len__(self) -> int:
        return len(self._accounts)

    def enter(self, identity: str, own: OwnLimits = NO_LIMITS) -> None:
        """Count a question that starts; `leave` when it ends.

        Args:
            identity: who asks.
            own: its limits where they differ from those of everybody.

        Raises:
            QuotaExceeded: it is one too many, and does not count.
        """
        now = self._clock()
        account = self._checked(identity, own, now)
        if account.bucket is not None:
            account.bucket.take(now)
        account.running += 1

    def check(self, identity: str, own: OwnLimits = NO_LIMITS) -> None:
        """Might a question start now? Counts nothing; arguments as of `enter`.

        Raises:
            QuotaExceeded: it would be one too many.
        """
        self._checked(identity, own, self._clock())

    def spend(self, identity: str, own: OwnLimits = NO_LIMITS) -> None:
        """Count a question that was refused for what it says; arguments as of `enter`."""
        now = self._clock()
        bucket = self._account(identity, own, now).bucket
        if bucket is not None:
            bucket.take(now)

    def _checked(self, identity: str, own: OwnLimits, now: float) -> _Account:
        account = self._account(identity, own, now)
        limits = account.limits
        if limits.at_once and account.running >= limits.at_once:
            raise QuotaExceeded(
                f"expected at most {limits.at_once:g} {self._noun} of {identity} at once, got one "
                "more; wait for one of them to end",
                PLACE_SECONDS,
            )
        if account.bucket is not None:
            wait = account.bucket.wait(now)
            if wait > 0:
                raise QuotaExceeded(
                    f"expected at most {limits.per_second:g} {self._noun} of {identity} a second, "
                    f"{limits.room:g} after a pause, got one more; ask again in {wait:.3g} s",
                    wait,
                )
        return account

    def leave(self, identity: str) -> None:
        """A question that `enter` counted has ended."""
        self._accounts[identity].running -= 1

    def _account(self, identity: str, own: OwnLimits, now: float) -> _Account:
        found = self._accounts.get(identity)
        if found is None:
            self._forget(now)
            found = self._accounts[identity] = self._opened(own, now)
        elif found.own != own:  # the file that says so was replaced
            running = found.running
            found = self._accounts[identity] = self._opened(own, now)
            found.running = running
        self._accounts.move_to_end(identity)
        return found

    def _opened(self, own: OwnLimits, now: float) -> _Account:
        limits = replace(self._limits, **own)
        return _Account(limits, own, limits.bucket(now))

    def _forget(self, now: float) -> None:
        """Let go of those idle for longest, and of others too where there are too many."""
        while self._accounts and next(iter(self._accounts.values())).idle(now):
            self._accounts.popitem(last=False)
        if len(self._accounts) >= self._max_identities:
            resting = (name for name, account in self._accounts.items() if not account.running)
            self._accounts.pop(next(resting, ""), None)
