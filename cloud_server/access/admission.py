"""Room for questions: for those still on their way, and for those being answered.

A question takes a place among those in flight only when all of it has come, so streams that say
little or nothing cannot keep others out. Nobody holds more than a share of either.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Protocol

from aligned_vq.errors import Overloaded, QuotaExceeded
from protos.access.quota import PLACE_SECONDS


class Arriving(Protocol):
    """A call whose message is still on its way."""

    def give_way(self) -> None:
        """It ends now, with a clear status."""
        ...


def shared(most: int, share: float) -> int:
    """How many of `most` one caller may hold; one at least."""
    return max(1, int(most * share))


@dataclass(frozen=True)
class _Waiting:
    """Those of one caller, in the order in which they came."""

    silent: dict[Arriving, None] = field(default_factory=dict)
    begun: dict[Arriving, None] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.silent) + len(self.begun)


class Arrivals:
    """Calls whose message is still on its way. Where there are too many, one of them gives way: of
    the same caller if it has more than its share, else of whoever has most; the first that came and
    said nothing, or, where all have said something, the first.

    Args:
        most: in all.
        share: of one caller, 0 to 1.
    """

    def __init__(self, most: int, share: float) -> None:
        self._most = most
        self._most_each = shared(most, share)
        self._by_caller: dict[str, _Waiting] = {}
        self._callers: dict[Arriving, str] = {}

    def __len__(self) -> int:
        return len(self._callers)

    def enter(self, arriving: Arriving, caller: str) -> bool:
        """Another one. Did one have to give way for it, which was told so?"""
        own = self._by_caller.get(caller)
        pressed = True
        if own is not None and len(own) >= self._most_each:
            self._one_gives_way(own)
        elif len(self) >= self._most:
            self._one_gives_way(max(self._by_caller.values(), key=len))
        else:
            pressed = False
        self._by_caller.setdefault(caller, _Waiting()).silent[arriving] = None
        self._callers[arriving] = caller
        return pressed

    def begun(self, arriving: Arriving) -> None:
        """Some of it has come; harmless if it is not here."""
        caller = self._callers.get(arriving)
        if caller is not None:
            own = self._by_caller[caller]
            own.silent.pop(arriving, None)
            own.begun[arriving] = None

    def leave(self, arriving: Arriving) -> None:
        """It has arrived, or ended; harmless if it was not here."""
        caller = self._callers.pop(arriving, None)
        if caller is not None:
            own = self._by_caller[caller]
            own.silent.pop(arriving, None)
            own.begun.pop(arriving, None)
            if not len(own):
                del self._by_caller[caller]

    def _one_gives_way(self, own: _Waiting) -> None:
        first = next(iter(own.silent or own.begun))
        self.leave(first)
        first.give_way()


class QuestionSlots:
    """Questions being answered.

    Args:
        most: in all.
        share: of one caller, 0 to 1.
    """

    def __init__(self, most: int, share: float) -> None:
        self._most = most
        self._most_each = shared(most, share)
        self._taken: Counter[str] = Counter()
        self.taken = 0
        """In all."""

    def check(self, caller: str) -> None:
        """Is there a place?

        Raises:
            Overloaded: none is free, or (QuotaExceeded) this caller has its share.
        """
        if self.taken >= self._most:
            raise Overloaded(
                f"expected at most {self._most} questions in flight, got one more; "
                "try again in a moment"
            )
        if self._taken[caller] >= self._most_each:
            raise QuotaExceeded(
                f"expected at most {self._most_each} of {self._most} questions in flight from one "
                "caller, got one more; wait for one of them to end",
                PLACE_SECONDS,
            )

    def take(self, caller: str) -> None:
        """One that `check` said is there."""
        self._taken[caller] += 1
        self.taken += 1

    def give_back(self, caller: str) -> None:
        """One that was taken."""
        self._taken[caller] -= 1
        if not self._taken[caller]:
            del self._taken[caller]
        self.taken -= 1
