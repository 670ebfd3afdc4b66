"""Where a speed-up passes one, from points alone."""

from __future__ import annotations

import math

import pytest

from benchmarks.end_to_end.crossing import crossings, pays_up_to


def test_no_crossing() -> None:
    above = [(50.0, 90.0), (1000.0, 20.0), (100_000.0, 1.1)]
    below = [(50.0, 0.9), (1000.0, 0.5)]
    assert crossings(above) == []
    assert crossings(below) == []
    assert pays_up_to(above) == math.inf
    assert pays_up_to(below) is None
    assert pays_up_to([]) is None
    assert crossings([]) == []


def test_one_crossing_lies_on_the_logarithmic_line() -> None:
    points = [(100.0, 10.0), (10_000.0, 0.1)]
    assert crossings(points) == pytest.approx([1000.0])
    assert pays_up_to(points) == pytest.approx(1000.0)
    assert crossings(points, level=5.0) == pytest.approx([100 * 100 ** (math.log10(2) / 2)])


def test_points_come_in_any_order() -> None:
    points = [(10_000.0, 0.5), (10.0, 8.0), (1000.0, 2.0)]
    assert crossings(points) == pytest.approx([math.sqrt(1000.0 * 10_000.0)])


def test_several_crossings_and_only_the_first_ends_what_pays() -> None:
    points = [(1.0, 4.0), (4.0, 0.25), (16.0, 4.0), (64.0, 0.25)]
    assert crossings(points) == pytest.approx([2.0, 8.0, 32.0])
    assert pays_up_to(points) == pytest.approx(2.0)


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([(1.0, 1.0)], [1.0]),
        ([(1.0, 2.0), (2.0, 1.0), (4.0, 0.5)], [2.0]),
        ([(1.0, 1.0), (2.0, 0.5)], [1.0]),
        ([(1.0, 2.0), (2.0, 1.0)], [2.0]),
    ],
)
def test_a_point_at_the_level_counts_once(
    points: list[tuple[float, float]], expected: list[float]
) -> None:
    assert crossings(points) == pytest.approx(expected)


def test_what_pays_includes_a_point_at_the_level() -> None:
    assert pays_up_to([(1.0, 2.0), (2.0, 1.0), (4.0, 0.5)]) == pytest.approx(2.0)
    assert pays_up_to([(1.0, 2.0), (2.0, 1.0), (4.0, 3.0)]) == math.inf
