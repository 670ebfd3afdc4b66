"""Heavy passes take turns where they would fight for the same cores."""

from __future__ import annotations

import threading
from collections import deque
from contextlib import AbstractContextManager, nullcontext
from types import TracebackType

import torch


class FairLock:
    """A lock that is given in the order it was asked for, so that nobody starves.

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
            own = threading.Lock()
            own.acquire()
            self._waiting.append(own)
        own.acquire()  # until the one before hands over

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._guard:
            if self._waiting:
                self._waiting.popleft().release()
            else:
                self._taken = False


def turns_on(device: torch.device) -> AbstractContextManager[None]:
    """For all who run passes on a device; on a GPU they overlap as they like."""
    return FairLock() if device.type == "cpu" else nullcontext()
