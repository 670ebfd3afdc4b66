"""Admission control: how many calls may be arriving, and how many questions in flight.

A question takes a slot only once all of it has arrived, so calls that send little or nothing cannot
keep others out. One caller may hold only a share of either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from aligned_vq.errors import Overloaded, QuotaExceeded
from protos.access.quota import SLOT_RETRY_SECONDS


class PendingCall(Protocol):
    """A call whose message has not arrived completely."""

    def evict(self) -> None:
        """End the call now, with a status that says why."""
        ...


def caller_share(total: int, share: float) -> int:
    """How many of `total` one caller may hold; at least one."""
    return max(1, int(total * share))


@dataclass(frozen=True)
class _CallerCalls:
    """The pending calls of one caller, oldest first (a dict serves as an ordered set)."""

    silent: dict[PendingCall, None] = field(default_factory=dict)
    """Calls of which nothing has arrived."""
    receiving: dict[PendingCall, None] = field(default_factory=dict)
    """Calls of which a part has arrived."""

    def __len__(self) -> int:
        return len(self.silent) + len(self.receiving)


class Arrivals:
    """The pending calls. Beyond the limit one of them is evicted.

    It is one of the same caller if that has used up its share, else one of the caller with the most
    calls: the oldest silent one, or the oldest if none is silent.

    Args:
        limit: most pending calls in all.
        share: largest share of one caller, 0 to 1.
    """

    def __init__(self, limit: int, share: float) -> None:
        self._limit = limit
        self._caller_limit = caller_share(limit, share)
        self._by_caller: dict[str, _CallerCalls] = {}
        self._callers: dict[PendingCall, str] = {}

    def __len__(self) -> int:
        return len(self._callers)

    def enter(self, call: PendingCall, caller: str) -> bool:
        """Add a call. True if another one was evicted for it."""
        own_calls = self._by_caller.get(caller)
        evicted = True
        # The share first: a caller beyond it displaces a call of the same caller only.
        if own_calls is not None and len(own_calls) >= self._caller_limit:
            self._evict_from(own_calls)
        elif len(self) >= self._limit:
            self._evict_from(max(self._by_caller.values(), key=len))
        else:
            evicted = False
        self._by_caller.setdefault(caller, _CallerCalls()).silent[call] = None
        self._callers[call] = caller
        return evicted

    def message_received(self, call: PendingCall) -> None:
        """A part of the call has arrived; does nothing if the call is not pending."""
        caller = self._callers.get(call)
        if caller is not None:
            calls = self._by_caller[caller]
            calls.silent.pop(call, None)
            calls.receiving[call] = None

    def leave(self, call: PendingCall) -> None:
        """The call has arrived or ended; does nothing if it is not pending."""
        caller = self._callers.pop(call, None)
        if caller is not None:
            calls = self._by_caller[caller]
            calls.silent.pop(call, None)
            calls.receiving.pop(call, None)
            if not len(calls):
                del self._by_caller[caller]

    def _evict_from(self, calls: _CallerCalls) -> None:
        # Silent calls first: a slow upload is likely to be genuine.
        oldest = next(iter(calls.silent or calls.receiving))
        # Leave first: ending the call makes it leave again, which must then do nothing.
        self.leave(oldest)
        oldest.evict()


class QuestionSlots:
    """Slots of the questions in flight.

    Args:
        limit: slots in all.
        share: largest share of one caller, 0 to 1.
    """

    def __init__(self, limit: int, share: float) -> None:
        self._limit = limit
        self._caller_limit = caller_share(limit, share)
        self._used_by: Counter[str] = Counter()
        self.used = 0
        """Slots in use by all callers."""

    def check(self, caller: str) -> None:
        """Check that a slot is free for this caller.

        Raises:
            Overloaded: none is free.
            QuotaExceeded: the caller has used up its share.
        """
        if self.used >= self._limit:
            raise Overloaded(
                f"expected at most {self._limit} questions in flight, got one more; "
                "try again in a moment"
            )
        if self._used_by[caller] >= self._caller_limit:
            raise QuotaExceeded(
                f"expected at most {self._caller_limit} of {self._limit} questions in flight from "
                "one caller, got one more; wait for one of them to end",
                SLOT_RETRY_SECONDS,
            )

    def take(self, caller: str) -> None:
        """Take a slot, right after `check` passed."""
        self._used_by[caller] += 1
        self.used += 1

    def release(self, caller: str) -> None:
        """Release a slot that was taken."""
        self._used_by[caller] -= 1
        # Or the table would grow with every address that ever asked.
        if not self._used_by[caller]:
            del self._used_by[caller]
        self.used -= 1
