"""The arithmetic of links, on a clock that is only numbers."""

from __future__ import annotations

import itertools

import pytest

from benchmarks.links.schedule import MIN_TIMEOUT_S, SEGMENT_BYTES, Schedule


@pytest.mark.parametrize("piece", [100, 1448, 50_000])
def test_bytes_take_the_delay_and_their_time_at_the_rate(piece: int) -> None:
    schedule = Schedule(rate_kbit=1000, delay_ms=30)
    pieces = [piece] * (100_000 // piece)
    last = max(schedule.arrival_s(5.0, size) for size in pieces)
    assert last == pytest.approx(5.0 + 0.030 + sum(pieces) * 8 / 1e6)


def test_an_idle_link_saves_nothing_up() -> None:
    schedule = Schedule(rate_kbit=80, delay_ms=0)
    assert schedule.arrival_s(0.0, 1000) == pytest.approx(0.1)
    assert schedule.arrival_s(60.0, 1000) == pytest.approx(60.1)


def test_a_piece_waits_for_those_before_it() -> None:
    schedule = Schedule(rate_kbit=80, delay_ms=10)
    assert schedule.arrival_s(0.0, 1000) == pytest.approx(0.11)
    assert schedule.arrival_s(0.02, 500) == pytest.approx(0.16)


def test_without_a_rate_only_the_delay_counts() -> None:
    assert Schedule(None, delay_ms=25).arrival_s(1.0, 10**9) == pytest.approx(1.025)


def test_jitter_is_bounded_and_reorders_nothing() -> None:
    schedule = Schedule(rate_kbit=None, delay_ms=20, jitter_ms=15, seed=3)
    entered = [n / 100 for n in range(300)]
    arrived = [schedule.arrival_s(now, 100) for now in entered]
    late = [then - now for now, then in zip(entered, arrived, strict=True)]
    assert all(before <= after for before, after in itertools.pairwise(arrived))
    assert min(late) >= 0.020
    assert max(late) <= 0.035
    assert max(late) - min(late) > 0.010


def test_a_loss_costs_a_round_trip_or_more_and_holds_up_what_follows() -> None:
    schedule = Schedule(rate_kbit=None, delay_ms=50, loss=0.2, seed=1)
    late = [schedule.arrival_s(10.0 * n, 100) - 10.0 * n for n in range(500)]
    repeated = [own for own in late if own > 0.0501]
    assert 0.15 < len(repeated) / len(late) < 0.25
    assert min(repeated) == pytest.approx(0.150)
    twice = [own for own in repeated if own > 0.1501]
    assert min(twice) == pytest.approx(0.150 + MIN_TIMEOUT_S)

    at_once = Schedule(rate_kbit=None, delay_ms=50, loss=0.2, seed=1)
    arrived = [at_once.arrival_s(0.0, 100) for _ in range(500)]
    assert arrived == sorted(arrived)
    assert arrived[-1] >= max(late) - 1e-9


def test_more_segments_are_lost_more_often() -> None:
    def share(size_bytes: int) -> float:
        schedule = Schedule(None, delay_ms=50, loss=0.05, seed=2)
        late = [schedule.arrival_s(10.0 * n, size_bytes) - 10.0 * n for n in range(1000)]
        return sum(own > 0.0501 for own in late) / len(late)

    assert share(SEGMENT_BYTES) == pytest.approx(0.05, abs=0.03)
    assert share(10 * SEGMENT_BYTES) == pytest.approx(1 - 0.95**10, abs=0.06)


def test_the_same_seed_gives_the_same_link() -> None:
    first, second = (Schedule(100, 10, 5, 0.1, seed=7) for _ in range(2))
    times = [(n / 10, 100 * n) for n in range(1, 50)]
    assert [first.arrival_s(*own) for own in times] == [second.arrival_s(*own) for own in times]
