"""Who may decode now: short places for most images, one long place for what is large or slow.

An image starts in a short place. A large one moves to the long place before its pixels are decoded,
and one that overruns its slice moves there if it is free; if not, it goes on until somebody waits
for its short place, and is then ended. So images that take seconds, however many there are, keep
those that take milliseconds waiting for no longer than a slice, and only one image at a time has
much memory. Callers take turns, each in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from aligned_vq.errors import Overloaded

RETRY_SECONDS = 2.0
_LEAST_SECONDS = 0.02


class Work(Protocol):
    """What is done in a place."""

    def used_seconds(self) -> float | None:
        """Of a processor, so far; None where that is not known."""
        ...

    def slow_down(self) -> None:
        """It has had its slice: others go first."""
        ...

    def close(self) -> None:
        """It is to end: the place is taken away."""
        ...


class DecodingSlot:
    """One image's right to be decoded.

    Args:
        caller: whose image it is.
        work: the decoding.
    """

    def __init__(self, caller: str, work: Work) -> None:
        self.caller = caller
        self.work = work
        self.is_long = False
        self.has_overrun = False
        self.was_ended = False
        """Another image needed the place more."""
        self.timer: asyncio.TimerHandle | None = None


class DecodingSlots:
    """For one event loop.

    Args:
        short: images decoded at a time beside the long one.
        slice_seconds: of a processor that an image may take before others come first; by the
            clock where that is not known.
        wait_seconds: longest wait for a place.
    """

    def __init__(self, short: int, slice_seconds: float, wait_seconds: float) -> None:
        self._free = short
        self._slice_seconds = slice_seconds
        self._wait_seconds = wait_seconds
        self._running: list[DecodingSlot] = []
        self._long: DecodingSlot | None = None
        self._waiting, self._waiting_long = _Turns(), _Turns()

    async def enter(self, place: DecodingSlot) -> None:
        """Take a short place; `leave` must follow.

        Raises:
            Overloaded: none became free in time.
        """
        if self._free and not self._waiting:
            self._free -= 1
        else:
            self._make_room()
            await self._wait(self._waiting, place, self._leave_short)
        self._running.append(place)
        self._look_again(place, self._slice_seconds)

    async def lengthen(self, place: DecodingSlot) -> None:
        """Move to the long place before a large image is decoded.

        Raises:
            Overloaded: it did not become free in time.
        """
        if place.is_long:
            return
        self._stop_running(place)
        if self._long is None:
            self._long, place.is_long = place, True
        else:
            await self._wait(self._waiting_long, place, self._leave_long)
            place.is_long = True

    def leave(self, place: DecodingSlot) -> None:
        """Give the place back, whichever it is."""
        if place.is_long:
            place.is_long = False
            self._leave_long()
        elif place in self._running:
            self._stop_running(place)

    def _stop_running(self, place: DecodingSlot) -> None:
        self._running.remove(place)
        if place.timer is not None:
            place.timer.cancel()
        self._leave_short()

    def _leave_short(self) -> None:
        if not self._waiting.grant():
            self._free += 1

    def _leave_long(self) -> None:
        """To a large image that waits, else to one that has overrun its slice."""
        granted = self._waiting_long.grant()
        self._long = granted
        if granted is None:
            for place in self._running:
                if place.has_overrun and not place.was_ended:
                    return self._promote(place)
        return None

    def _promote(self, place: DecodingSlot) -> None:
        self._long, place.is_long = place, True
        self._stop_running(place)

    def _look_again(self, place: DecodingSlot, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        place.timer = loop.call_later(seconds, self._look_at, place)

    def _look_at(self, place: DecodingSlot) -> None:
        """Has it had its slice? On a busy machine that takes longer than the slice."""
        used = place.work.used_seconds()
        if used is not None and used < self._slice_seconds:
            self._look_again(place, max(self._slice_seconds - used, _LEAST_SECONDS))
            return
        place.has_overrun = True
        place.work.slow_down()
        if self._long is None:
            self._promote(place)
        elif self._waiting:
            self._end(place)

    def _make_room(self) -> None:
        """End the image that has been in a short place for longest, if it has had its slice."""
        for place in self._running:
            if place.has_overrun and not place.was_ended:
                return self._end(place)
        return None

    def _end(self, place: DecodingSlot) -> None:
        place.was_ended = True
        place.work.close()

    async def _wait(
        self, turns: _Turns, place: DecodingSlot, give_back: Callable[[], None]
    ) -> None:
        granted = turns.join(place)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                give_back()  # it was granted in the moment that it was given up
            turns.drop(place)
            if isinstance(error, TimeoutError):
                raise overloaded() from None
            raise


class _Turns:
    """Callers in turn; of each the one that came first."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[DecodingSlot]] = OrderedDict()
        self._granted: dict[DecodingSlot, asyncio.Future[None]] = {}

    def __bool__(self) -> bool:
        return bool(self._granted)

    def join(self, place: DecodingSlot) -> asyncio.Future[None]:
        """Done when it is this one's turn."""
        self._queues.setdefault(place.caller, deque()).append(place)
        granted = asyncio.get_running_loop().create_future()
        self._granted[place] = granted
        return granted

    def drop(self, place: DecodingSlot) -> None:
        """It waits no longer; harmless when repeated."""
        if self._granted.pop(place, None) is not None:
            queue = self._queues[place.caller]
            queue.remove(place)
            if not queue:
                del self._queues[place.caller]

    def grant(self) -> DecodingSlot | None:
        """Let the next one go on; None if nobody waits."""
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            place = queue[0]
            granted = self._granted[place]
            self.drop(place)
            if not granted.done():  # else it gave up, and has not been woken yet
                if caller in self._queues:
                    self._queues.move_to_end(caller)
                granted.set_result(None)
                return place
        return None


def overloaded() -> Overloaded:
    """What a caller is told whose image found no place, or had to give it up."""
    error = Overloaded(
        "expected an image to be decoded at once, but others are, or it takes long and they wait; "
        "try again in a moment, or send a smaller image"
    )
    error.retry_after_seconds = RETRY_SECONDS
    return error
