"""A lock that lets forward passes take turns on a CPU."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch


class FairLock:
    """A first-in, first-out lock: `threading.Lock` may let one thread starve the others.

    Two passes at once on a CPU are far slower than one after the other: each uses all cores, and
    their threads wait for each other at every operation.
    """

    def __init__(self) -> None:
        self._guard = threading.Lock()
        self._taken = False
        self._waiting: deque[threading.Lock] = deque()

    def __enter__(self) -> None:
        with self._guard:
            if not self._taken:
                self._taken = True
                return
            turn = threading.Lock()
            turn.acquire()
            # Acquired by the waiter itself; the holder's release hands the turn over.
            self._waiting.append(turn)
        turn.acquire()  # blocks until the previous holder hands the lock over

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._guard:
            if self._waiting:
                # `_taken` stays set: the lock goes straight to the longest waiter.
                self._waiting.popleft().release()
            else:
                self._taken = False


def compute_lock_for(device: torch.device) -> AbstractContextManager[None]:
    """The lock for forward passes on a device; a no-op on a GPU, which schedules them itself."""
    return FairLock() if device.type == "cpu" else nullcontext()
