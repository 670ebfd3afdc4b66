"""What one identity may ask, on a clock that the test moves."""

from __future__ import annotations

import pytest

from aligned_vq.errors import QuotaExceeded
from protos.access.quota import SLOT_RETRY_SECONDS, Quotas
from tests.e2e.raw import assert_clear


class Clock:
    """Shows what it is set to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def entered(quotas: Quotas, identity: str, count: int) -> int:
    """How many of `count` questions, each over at once, were let in."""
    allowed = 0
    for _ in range(count):
        try:
            quotas.enter(identity)
        except QuotaExceeded:
            continue
        quotas.leave(identity)
        allowed += 1
    return allowed


def test_a_burst_then_the_rate() -> None:
    clock = Clock()
    quotas = Quotas(2.0, 5, 0, clock)
    assert entered(quotas, "a", 9) == 5
    with pytest.raises(QuotaExceeded, match=r"at most 2 questions of a a second") as caught:
        quotas.enter("a")
    assert_clear(str(caught.value))
    assert caught.value.retry_after_seconds == pytest.approx(0.5)
    assert entered(quotas, "b", 9) == 5  # nobody else is held up
    clock.now += 0.2
    with pytest.raises(QuotaExceeded) as caught:
        quotas.enter("a")
    assert caught.value.retry_after_seconds == pytest.approx(0.3)
    clock.now += caught.value.retry_after_seconds or 0
    assert entered(quotas, "a", 9) == 1
    clock.now += 10
    assert entered(quotas, "a", 9) == 5


def test_a_clock_that_jumps_back_gives_and_takes_nothing() -> None:
    clock = Clock()
    quotas = Quotas(1.0, 2, 0, clock)
    assert entered(quotas, "a", 3) == 2
    clock.now -= 900
    assert entered(quotas, "a", 3) == 0
    clock.now += 1
    assert entered(quotas, "a", 3) == 1


def test_a_rate_below_one_has_room_for_one_question() -> None:
    clock = Clock()
    quotas = Quotas(0.1, 0, 0, clock)
    assert entered(quotas, "a", 3) == 1
    clock.now += 10
    assert entered(quotas, "a", 3) == 1


def test_questions_at_once() -> None:
    quotas = Quotas(0.001, 3, 2, Clock())
    quotas.enter("a")
    quotas.enter("a")
    for _ in range(5):  # a refusal costs nothing of the rate
        with pytest.raises(QuotaExceeded, match="at most 2 questions of a at once") as caught:
            quotas.enter("a")
    assert caught.value.retry_after_seconds == SLOT_RETRY_SECONDS
    assert_clear(str(caught.value))
    quotas.enter("b")
    quotas.leave("a")
    quotas.enter("a")


def test_without_limits_nobody_is_held_up() -> None:
    quotas = Quotas(0, 0, 0, Clock())
    for _ in range(1000):
        quotas.enter("a")


def test_who_is_idle_is_forgotten() -> None:
    clock = Clock()
    quotas = Quotas(1.0, 1, 0, clock, max_identities=100)
    quotas.enter("busy")
    for number in range(500):
        clock.now += 2
        assert entered(quotas, f"visitor-{number}", 1) == 1
    assert len(quotas) <= 101
    for number in range(500):  # at one moment: nobody's rate has recovered
        assert entered(quotas, f"crowd-{number}", 1) == 1
    assert len(quotas) <= 101
    assert entered(quotas, "crowd-499", 1) == 0
    quotas.leave("busy")  # it was never forgotten


def test_a_question_that_is_refused_counts_toward_the_rate() -> None:
    quotas = Quotas(per_second=1, burst=2, at_once=1, clock=lambda: 0.0)
    quotas.spend("a")
    quotas.enter("a")
    quotas.leave("a")
    with pytest.raises(QuotaExceeded):
        quotas.check("a")
    quotas.check("b")
