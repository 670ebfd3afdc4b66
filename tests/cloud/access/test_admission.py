"""Room for calls on their way and for questions in flight, and whose it is."""

from __future__ import annotations

import pytest

from aligned_vq.errors import Overloaded, QuotaExceeded
from cloud_server.access.admission import Arrivals, QuestionSlots
from tests.e2e.raw import assert_clear


class Caller:
    """Counts how often it had to give way."""

    def __init__(self) -> None:
        self.evicted = 0

    def evict(self) -> None:
        self.evicted += 1


def entered(arrivals: Arrivals, caller: str, count: int) -> list[Caller]:
    calls = [Caller() for _ in range(count)]
    for call in calls:
        arrivals.enter(call, caller)
    return calls


def test_a_caller_pushes_out_its_own_first_calls() -> None:
    arrivals = Arrivals(8, 0.5)
    others = entered(arrivals, "good", 2)
    trickling = entered(arrivals, "hostile", 10)
    assert [call.evicted for call in trickling] == [1] * 6 + [0] * 4
    assert [call.evicted for call in others] == [0, 0]
    assert len(arrivals) == 6


def test_who_has_most_makes_room_where_all_is_taken() -> None:
    arrivals = Arrivals(6, 0.5)
    first = entered(arrivals, "a", 3)
    second = entered(arrivals, "b", 2)
    third = entered(arrivals, "c", 1)
    assert arrivals.enter(newcomer := Caller(), "d")
    assert [call.evicted for call in (*first, *second, *third, newcomer)] == [1] + [0] * 6


def test_silent_calls_go_before_those_that_said_something() -> None:
    arrivals = Arrivals(4, 1.0)
    slow, *silent = entered(arrivals, "same", 4)
    arrivals.message_received(slow)
    entered(arrivals, "same", 3)
    assert slow.evicted == 0
    assert [call.evicted for call in silent] == [1, 1, 1]
    arrivals.leave(silent[0])  # harmless: it is not there any more
    arrivals.message_received(silent[0])
    assert len(arrivals) == 4


def test_room_comes_back() -> None:
    arrivals = Arrivals(2, 0.5)
    (call,) = entered(arrivals, "a", 1)
    arrivals.leave(call)
    assert not arrivals.enter(Caller(), "a")
    assert call.evicted == 0
    assert len(arrivals) == 1


def test_nobody_holds_more_than_a_share_of_the_places() -> None:
    places = QuestionSlots(4, 0.5)
    for _ in range(2):
        places.check("hostile")
        places.take("hostile")
    with pytest.raises(QuotaExceeded) as caught:
        places.check("hostile")
    assert caught.value.retry_after_seconds is not None
    assert_clear(str(caught.value))
    for caller in ("good", "better"):
        places.check(caller)
        places.take(caller)
    with pytest.raises(Overloaded, match="at most 4 questions in flight") as full:
        places.check("third")
    assert type(full.value) is Overloaded
    places.release("hostile")
    places.check("third")
    places.check("hostile")
    assert places.used == 3


def test_a_share_of_all_switches_shares_off() -> None:
    places = QuestionSlots(2, 1.0)
    for _ in range(2):
        places.check("one")
        places.take("one")
    with pytest.raises(Overloaded, match="in flight") as full:
        places.check("one")
    assert type(full.value) is Overloaded
