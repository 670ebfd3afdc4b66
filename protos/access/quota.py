"""Quotas per identity: a rate with bursts, and a limit on concurrent questions."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from aligned_vq.errors import QuotaExceeded

SLOT_RETRY_SECONDS = 1.0
"""Suggested wait when all slots of an identity are used: nobody knows when one gets free."""
MAX_IDENTITIES = 10_000
_ROUNDING = 1e-9  # a bucket refilled in many small steps may miss a whole token by this much

LIMITS: Mapping[str, Callable[[str], float]] = MappingProxyType(
    {"per_second": float, "burst": int, "at_once": int}
)
"""Limits that may be set per identity, and how each is parsed from text."""
IndividualLimits = Mapping[str, float]
"""Limits of one identity by their names in `LIMITS`; those left out have their defaults."""
NO_LIMITS: IndividualLimits = MappingProxyType({})


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
        self._refilled_at = now

    def wait(self, now: float) -> float:
        """Seconds until a token is available; 0 if one is."""
        self._refill(now)
        missing = 1 - self._tokens
        # A wait of a rounding error would make the client retry for nothing.
        return missing / self._rate if missing > _ROUNDING else 0.0

    def take(self, now: float) -> None:
        """Take a token, right after `wait` returned 0."""
        self._refill(now)
        self._tokens -= 1

    def full(self, now: float) -> bool:
        """Whether it holds as many tokens as a new bucket."""
        self._refill(now)
        return self._tokens >= self._burst

    def _refill(self, now: float) -> None:
        # Not negative, so that a `now` before the last refill takes no tokens away.
        self._tokens = min(
            self._burst, self._tokens + self._rate * max(0.0, now - self._refilled_at)
        )
        self._refilled_at = now


@dataclass(frozen=True)
class _Limits:
    """The limits of one identity; 0 is no limit."""

    per_second: float
    burst: float
    at_once: float

    def bucket(self, now: float) -> TokenBucket | None:
        """A full bucket; None if the rate is not limited."""
        return TokenBucket(self.per_second, self.capacity, now) if self.per_second else None

    @property
    def capacity(self) -> float:
        """Most tokens of the bucket."""
        # At least one: a bucket of less than a token would never admit a question.
        return self.burst or max(1, math.ceil(self.per_second))


@dataclass
class _Account:
    """What an identity uses now."""

    limits: _Limits
    individual: IndividualLimits
    bucket: TokenBucket | None
    running: int = 0

    def idle(self, now: float) -> bool:
        """Whether the account is in the same state as a new one."""
        return not self.running and (self.bucket is None or self.bucket.full(now))


class Quotas:
    """Counts questions by identity. Used from one thread only.

    Accounts of idle identities are removed, so memory grows with the identities active now.

    Args:
        per_second: questions per second of one identity in the long run; 0 is no limit.
        burst: questions at once after a pause; 0 is one second's worth, at least one.
        at_once: questions of one identity in flight; 0 is no limit.
        clock: monotonic seconds.
        max_identities: most accounts; beyond it one with nothing in flight is removed.
        noun: what is counted, for error messages.
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

    def enter(self, identity: str, individual: IndividualLimits = NO_LIMITS) -> None:
        """Count a question that starts; call `leave` when it ends.

        Args:
            identity: the caller.
            individual: the caller's limits where they differ from the defaults.

        Raises:
            QuotaExceeded: a limit is reached; the question is not counted.
        """
        now = self._clock()
        account = self._check(identity, individual, now)
        if account.bucket is not None:
            account.bucket.take(now)
        account.running += 1

    def check(self, identity: str, individual: IndividualLimits = NO_LIMITS) -> None:
        """Check that a question might start now, without counting it; arguments as of `enter`.

        Raises:
            QuotaExceeded: a limit is reached.
        """
        self._check(identity, individual, self._clock())

    def spend(self, identity: str, individual: IndividualLimits = NO_LIMITS) -> None:
        """Count an invalid question toward the rate alone; arguments as of `enter`."""
        now = self._clock()
        bucket = self._account(identity, individual, now).bucket
        if bucket is not None:
            # May go below zero: that delays the next questions of the identity.
            bucket.take(now)

    def _check(self, identity: str, individual: IndividualLimits, now: float) -> _Account:
        account = self._account(identity, individual, now)
        limits = account.limits
        if limits.at_once and account.running >= limits.at_once:
            raise QuotaExceeded(
                f"expected at most {limits.at_once:g} {self._noun} of {identity} at once, got one "
                "more; wait for one of them to end",
                SLOT_RETRY_SECONDS,
            )
        if account.bucket is not None:
            wait = account.bucket.wait(now)
            if wait > 0:
                raise QuotaExceeded(
                    f"expected at most {limits.per_second:g} {self._noun} of {identity} a second, "
                    f"{limits.capacity:g} after a pause, got one more; ask again in {wait:.3g} s",
                    wait,
                )
        return account

    def leave(self, identity: str) -> None:
        """A question that `enter` counted has ended."""
        self._accounts[identity].running -= 1

    def _account(self, identity: str, individual: IndividualLimits, now: float) -> _Account:
        account = self._accounts.get(identity)
        if account is None:
            # Only here, as the table grows with new accounts alone.
            self._remove_idle(now)
            account = self._accounts[identity] = self._new_account(individual, now)
        elif account.individual != individual:  # the file of tokens was replaced
            running = account.running
            account = self._accounts[identity] = self._new_account(individual, now)
            # `leave` ends the questions in flight, so their count outlives the limits.
            account.running = running
        # The order of last use, on which `_remove_idle` relies.
        self._accounts.move_to_end(identity)
        return account

    def _new_account(self, individual: IndividualLimits, now: float) -> _Account:
        limits = replace(self._limits, **individual)
        return _Account(limits, individual, limits.bucket(now))

    def _remove_idle(self, now: float) -> None:
        """Remove the accounts idle for longest, and one without running questions if too many."""
        # Accounts are ordered by last use, so the first active one ends the search.
        while self._accounts and next(iter(self._accounts.values())).idle(now):
            self._accounts.popitem(last=False)
        if len(self._accounts) >= self._max_identities:
            idle = (name for name, account in self._accounts.items() if not account.running)
            # If all have questions in flight, the table grows: their counts must not be lost.
            # No identity has the empty name.
            self._accounts.pop(next(idle, ""), None)
