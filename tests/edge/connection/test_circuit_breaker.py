"""When a target is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from edge_client.connection.circuit_breaker import MAX_PAUSE_SECONDS, REFUSED_SECONDS, Breaker


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> Breaker:
    return Breaker(3, 1.0, clock)


def state(breaker: Breaker) -> str:
    """As a function, so that mypy does not take it for the same ever after."""
    return breaker.state


def fail(breaker: Breaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.failed(breaker.mark, "no service")


def test_failures_in_a_row_open_it(breaker: Breaker) -> None:
    fail(breaker, 2)
    breaker.answered()
    fail(breaker, 2)
    assert state(breaker) == "closed"
    fail(breaker)
    assert state(breaker) == "open"
    assert breaker.reason == "no service"


def test_failures_at_the_same_time_count_once(breaker: Breaker) -> None:
    mark = breaker.mark
    for _ in range(8):
        breaker.failed(mark, "killed")
    assert state(breaker) == "closed"
    fail(breaker, 2)
    assert state(breaker) == "open"


def test_an_open_one_is_looked_at_after_a_pause_that_grows(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    pauses = []
    for _ in range(8):
        assert not breaker.wants_look()
        since = clock.now
        while not breaker.wants_look():
            clock.now += 0.5
        pauses.append(clock.now - since)
        breaker.looked("no service")
    assert pauses == [1, 2, 4, 8, *[MAX_PAUSE_SECONDS] * 4]


def test_one_that_is_not_well_any_more_is_left_alone_at_once(breaker: Breaker) -> None:
    mark = breaker.mark
    breaker.looked("")
    assert state(breaker) == "closed"
    breaker.looked("no word")
    assert state(breaker) == "open"
    breaker.looked("")
    breaker.failed(mark, "hung up")  # its questions, because of that look
    assert state(breaker) == "trial"


def test_a_trial_decides(breaker: Breaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 1
    breaker.looked("")
    assert state(breaker) == "trial"
    fail(breaker)
    assert state(breaker) == "open"
    clock.now += 1
    assert not breaker.wants_look()  # twice as long as before
    clock.now += 1
    assert breaker.wants_look()
    breaker.looked("")
    breaker.answered()
    assert state(breaker) == "closed"
    assert breaker.reason == ""
    fail(breaker, 2)
    assert state(breaker) == "closed"


def test_who_refuses_is_tried_again_much_later_whatever_it_says(
    breaker: Breaker, clock: Clock
) -> None:
    breaker.refused("another bundle")
    assert state(breaker) == "open"
    clock.now += REFUSED_SECONDS - 1
    assert not breaker.wants_look()
    breaker.looked("")
    assert state(breaker) == "open"
    clock.now += 1
    assert state(breaker) == "trial"
    breaker.refused("another bundle")
    assert state(breaker) == "open"
