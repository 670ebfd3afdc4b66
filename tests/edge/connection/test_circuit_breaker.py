"""When a target is left alone, and when it is asked again."""

from __future__ import annotations

import pytest

from edge_client.connection.circuit_breaker import (
    MAX_PAUSE_SECONDS,
    REFUSED_SECONDS,
    CircuitBreaker,
)


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def breaker(clock: Clock) -> CircuitBreaker:
    return CircuitBreaker(3, 1.0, clock)


def state(breaker: CircuitBreaker) -> str:
    """As a function, so that mypy does not take it for the same ever after."""
    return breaker.state


def fail(breaker: CircuitBreaker, times: int = 1) -> None:
    for _ in range(times):
        breaker.record_failure(breaker.generation, "no service")


def test_failures_in_a_row_open_it(breaker: CircuitBreaker) -> None:
    fail(breaker, 2)
    breaker.record_success()
    fail(breaker, 2)
    assert state(breaker) == "closed"
    fail(breaker)
    assert state(breaker) == "open"
    assert breaker.reason == "no service"


def test_failures_at_the_same_time_count_once(breaker: CircuitBreaker) -> None:
    mark = breaker.generation
    for _ in range(8):
        breaker.record_failure(mark, "killed")
    assert state(breaker) == "closed"
    fail(breaker, 2)
    assert state(breaker) == "open"


def test_an_open_one_is_looked_at_after_a_pause_that_grows(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    fail(breaker, 3)
    pauses = []
    for _ in range(8):
        assert not breaker.is_check_due()
        since = clock.now
        while not breaker.is_check_due():
            clock.now += 0.5
        pauses.append(clock.now - since)
        breaker.record_health("no service")
    assert pauses == [1, 2, 4, 8, *[MAX_PAUSE_SECONDS] * 4]


def test_one_that_is_not_well_any_more_is_left_alone_at_once(breaker: CircuitBreaker) -> None:
    mark = breaker.generation
    breaker.record_health("")
    assert state(breaker) == "closed"
    breaker.record_health("no word")
    assert state(breaker) == "open"
    breaker.record_health("")
    breaker.record_failure(mark, "hung up")  # its questions, because of that look
    assert state(breaker) == "half_open"


def test_a_trial_decides(breaker: CircuitBreaker, clock: Clock) -> None:
    fail(breaker, 3)
    clock.now += 1
    breaker.record_health("")
    assert state(breaker) == "half_open"
    fail(breaker)
    assert state(breaker) == "open"
    clock.now += 1
    assert not breaker.is_check_due()  # twice as long as before
    clock.now += 1
    assert breaker.is_check_due()
    breaker.record_health("")
    breaker.record_success()
    assert state(breaker) == "closed"
    assert breaker.reason == ""
    fail(breaker, 2)
    assert state(breaker) == "closed"


def test_who_refuses_is_tried_again_much_later_whatever_it_says(
    breaker: CircuitBreaker, clock: Clock
) -> None:
    breaker.record_rejection("another bundle")
    assert state(breaker) == "open"
    clock.now += REFUSED_SECONDS - 1
    assert not breaker.is_check_due()
    breaker.record_health("")
    assert state(breaker) == "open"
    clock.now += 1
    assert state(breaker) == "half_open"
    breaker.record_rejection("another bundle")
    assert state(breaker) == "open"
