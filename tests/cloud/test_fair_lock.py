"""A fair lock is exclusive, given in the order of arrival, and passed on after an error."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest
import torch

from cloud_server.fair_lock import FairLock, compute_lock_for

LIMIT_S = 10.0


@contextmanager
def running(*targets: Callable[[], object]) -> Iterator[None]:
    """Threads that have ended when the block is left."""
    threads = [threading.Thread(target=target, daemon=True) for target in targets]
    for thread in threads:
        thread.start()
    yield
    for thread in threads:
        thread.join(LIMIT_S)
    assert not any(thread.is_alive() for thread in threads)


def until_waiting(lock: FairLock, count: int) -> None:
    deadline = time.monotonic() + LIMIT_S
    while len(lock._waiting) < count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


def test_one_at_a_time() -> None:
    lock, inside, overlaps = FairLock(), [0], [0]

    def passes() -> None:
        for _ in range(200):
            with lock:
                inside[0] += 1
                overlaps[0] += inside[0] > 1
                time.sleep(0)  # lets another thread run in the middle
                inside[0] -= 1

    with running(*[passes] * 6):
        pass
    assert overlaps == [0]


def test_turns_come_in_the_order_of_arrival() -> None:
    lock, order = FairLock(), list[int]()

    def arrives(number: int) -> None:
        with lock:
            order.append(number)

    with ExitStack() as threads, lock:
        for number in range(8):
            threads.enter_context(running(partial(arrives, number)))
            until_waiting(lock, number + 1)
        assert order == []
    assert order == list(range(8))


def test_who_leaves_and_comes_back_is_behind_who_waits() -> None:
    lock, order = FairLock(), list[str]()

    def waits() -> None:
        with lock:
            order.append("other")

    with ExitStack() as threads:
        with lock:
            threads.enter_context(running(waits))
            until_waiting(lock, 1)
        with lock:
            order.append("same")
    assert order == ["other", "same"]


def test_an_error_passes_the_turn_on() -> None:
    lock, entered = FairLock(), threading.Event()

    def waits() -> None:
        with lock:
            entered.set()

    def fails() -> None:
        with lock:
            threads.enter_context(running(waits))
            until_waiting(lock, 1)
            raise KeyError

    with ExitStack() as threads:
        with pytest.raises(KeyError):
            fails()
        assert entered.wait(LIMIT_S)


def test_a_lock_that_everybody_left_is_free() -> None:
    lock, taken = FairLock(), list[bool]()
    for _ in range(3):
        with lock:
            taken.append(lock._taken)
        taken.append(lock._taken)
    assert taken == [True, False] * 3
    assert not lock._waiting


def test_a_cpu_takes_turns_and_a_gpu_does_not() -> None:
    assert isinstance(compute_lock_for(torch.device("cpu")), FairLock)
    assert compute_lock_for(torch.device("cpu")) is not compute_lock_for(torch.device("cpu"))
    overlapping = compute_lock_for(torch.device("cuda"))
    with overlapping, overlapping:
        pass
