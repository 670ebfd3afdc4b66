"""A queue of what waits for a slot: callers take turns, however much each of them sends."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from typing import Generic, TypeVar

Waiter = TypeVar("Waiter")


class WaitQueue(Generic[Waiter]):
    """Waiters: round-robin over callers, first in first out for each. For one event loop."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, deque[Waiter]] = OrderedDict()
        self._granted: dict[Waiter, tuple[str, asyncio.Future[None]]] = {}
        """The caller of each waiter, and the future that `add` returned."""

    def __bool__(self) -> bool:
        return bool(self._granted)

    def add(self, caller: str, waiter: Waiter) -> asyncio.Future[None]:
        """Enqueue; the future is done once the waiter is granted its slot."""
        self._queues.setdefault(caller, deque()).append(waiter)
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._granted[waiter] = caller, future
        return future

    def remove(self, waiter: Waiter) -> None:
        """Dequeue; idempotent."""
        if waiter in self._granted:
            caller, _ = self._granted.pop(waiter)
            queue = self._queues[caller]
            queue.remove(waiter)
            if not queue:
                del self._queues[caller]

    def grant(self) -> Waiter | None:
        """Grant the next waiter its slot and dequeue it; None if nobody waits."""
        while self._queues:
            caller, queue = next(iter(self._queues.items()))
            waiter = queue[0]
            _, future = self._granted[waiter]
            self.remove(waiter)
            if not future.done():  # done: its task was cancelled but has not run yet
                # The caller goes behind all others: what it sent next waits for theirs.
                if caller in self._queues:
                    self._queues.move_to_end(caller)
                future.set_result(None)
                return waiter
        return None
