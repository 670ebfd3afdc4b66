"""Admission of images to decoding: several short slots, and one long slot for large or slow images.

An image starts in a short slot. A large one moves to the long slot before its pixels are decoded.
One that overruns its time slice moves there if the long slot is free; otherwise it continues until
another image waits for its short slot, and is then aborted. So images that take seconds, however
many there are, delay those that take milliseconds by at most a time slice, and only one image at a
time uses much memory. Callers are served round-robin, the images of each in order of arrival.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Protocol

from aligned_vq.errors import Overloaded
from edge_client.decoding.wait_queue import WaitQueue

RETRY_SECONDS = 2.0
_MIN_CHECK_SECONDS = 0.02


class Work(Protocol):
    """The decoding that occupies a slot."""

    def used_seconds(self) -> float | None:
        """CPU time used so far; None if unknown."""
        ...

    def slow_down(self) -> None:
        """Lower its priority: it has used up its time slice."""
        ...

    def close(self) -> None:
        """Abort it: its slot goes to another image."""
        ...


class DecodingSlot:
    """The slot of one image, or its request for one.

    Args:
        caller: who sent the image.
        work: the decoding.
    """

    def __init__(self, caller: str, work: Work) -> None:
        self.caller = caller
        self.work = work
        self.is_long = False
        self.has_overrun = False
        """Whether it has used up its time slice."""
        self.was_aborted = False
        """Whether its work was aborted for another image."""
        self.timer: asyncio.TimerHandle | None = None


class DecodingSlots:
    """All slots, for use from one event loop.

    Args:
        short: number of short slots; the long slot comes on top.
        slice_seconds: CPU time that an image may use before others take precedence; elapsed time
            where CPU time is unknown.
        wait_seconds: longest wait for a slot.
    """

    def __init__(self, short: int, slice_seconds: float, wait_seconds: float) -> None:
        self._num_free = short
        self._slice_seconds = slice_seconds
        self._wait_seconds = wait_seconds
        self._running: list[DecodingSlot] = []
        """Short slots in use, the oldest first."""
        self._long: DecodingSlot | None = None
        self._waiting: WaitQueue[DecodingSlot] = WaitQueue()
        self._waiting_long: WaitQueue[DecodingSlot] = WaitQueue()

    async def acquire(self, slot: DecodingSlot) -> None:
        """Take a short slot; `release` must follow.

        Raises:
            Overloaded: none became free in time.
        """
        # A newcomer never overtakes images that already wait.
        if self._num_free and not self._waiting:
            self._num_free -= 1
        else:
            self._abort_overrun()
            await self._wait(self._waiting, slot, self._release_short)
        self._running.append(slot)
        self._schedule_check(slot, self._slice_seconds)

    async def acquire_long(self, slot: DecodingSlot) -> None:
        """Exchange the short slot for the long one, before a large image is decoded.

        Raises:
            Overloaded: it did not become free in time.
        """
        if slot.is_long:
            return
        # The short slot is free at once: waiting for the long one must not block quick images.
        self._leave_short(slot)
        if self._long is None:
            self._long, slot.is_long = slot, True
        else:
            await self._wait(self._waiting_long, slot, self._release_long)
            slot.is_long = True

    def release(self, slot: DecodingSlot) -> None:
        """Give the slot back, whichever it is; no effect without one."""
        if slot.is_long:
            slot.is_long = False
            self._release_long()
        elif slot in self._running:
            self._leave_short(slot)

    def _leave_short(self, slot: DecodingSlot) -> None:
        self._running.remove(slot)
        if slot.timer is not None:
            slot.timer.cancel()
        self._release_short()

    def _release_short(self) -> None:
        # A granted slot passes directly to the waiter, so that no newcomer can overtake it.
        if not self._waiting.grant():
            self._num_free += 1

    def _release_long(self) -> None:
        """Pass the long slot to a waiting large image, else to one that overran its slice."""
        granted = self._waiting_long.grant()
        self._long = granted
        if granted is None:
            for slot in self._running:
                if slot.has_overrun and not slot.was_aborted:
                    return self._promote(slot)
        return None

    def _promote(self, slot: DecodingSlot) -> None:
        self._long, slot.is_long = slot, True
        self._leave_short(slot)

    def _schedule_check(self, slot: DecodingSlot, seconds: float) -> None:
        loop = asyncio.get_running_loop()
        slot.timer = loop.call_later(seconds, self._check_slice, slot)

    def _check_slice(self, slot: DecodingSlot) -> None:
        """Act on an image that used up its slice; on a busy machine that takes longer."""
        used_seconds = slot.work.used_seconds()
        if used_seconds is not None and used_seconds < self._slice_seconds:
            remaining_seconds = self._slice_seconds - used_seconds
            self._schedule_check(slot, max(remaining_seconds, _MIN_CHECK_SECONDS))
            return
        # Quick images get the processors first from now on.
        slot.has_overrun = True
        slot.work.slow_down()
        if self._long is None:
            self._promote(slot)
        elif self._waiting:
            self._abort(slot)

    def _abort_overrun(self) -> None:
        """Abort the longest-running image in a short slot that has overrun its slice."""
        for slot in self._running:
            if slot.has_overrun and not slot.was_aborted:
                return self._abort(slot)
        return None

    def _abort(self, slot: DecodingSlot) -> None:
        # Its decoder fails and then releases the slot, which passes to the next waiter.
        slot.was_aborted = True
        slot.work.close()

    async def _wait(
        self, waiting: WaitQueue[DecodingSlot], slot: DecodingSlot, release: Callable[[], None]
    ) -> None:
        granted = waiting.add(slot.caller, slot)
        try:
            async with asyncio.timeout(self._wait_seconds):
                await granted
        except BaseException as error:
            if granted.done() and not granted.cancelled():
                release()  # granted at the very moment of the timeout or cancellation
            waiting.remove(slot)
            if isinstance(error, TimeoutError):
                raise overloaded() from None
            raise


def overloaded() -> Overloaded:
    """The error for an image that got no slot, or was aborted for another one."""
    error = Overloaded(
        "expected a free decoding slot, got none in time, or the image took long and gave way to "
        "others; try again in a moment, or send a smaller image"
    )
    error.retry_after_seconds = RETRY_SECONDS
    return error
