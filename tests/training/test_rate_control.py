"""Rate weights find their mean rate, and every point gets its share of the steps."""

from __future__ import annotations

from collections import Counter

import numpy as np

from aligned_vq.training.config import PointConfig
from aligned_vq.training.rate_control import RateControl

POINTS = {
    "low": PointConfig((0, 1), mean_bytes=1),
    "high": PointConfig((0, 1), mean_bytes=1),
    "free": PointConfig((0,)),
}
TARGETS = {"low": 120.0, "high": 400.0}


def test_weights_converge_to_their_targets() -> None:
    control = RateControl(POINTS, TARGETS)
    rng = np.random.default_rng(0)

    def bits(weight: float) -> float:
        """An encoder that spends less the more a bit costs, on pictures that differ."""
        return float(1000 / (1 + 3 * weight) * rng.uniform(0.8, 1.2))

    rates: dict[int, list[float]] = {0: [], 1: []}
    for step in range(400):
        stages, picked, weights = control.draw(rng, 8)
        spent = [bits(float(weights[i])) if weights is not None else 1.0 for i in range(8)]
        control.observe(picked, spent)
        if step >= 200 and stages == (0, 1):
            for number, rate in zip(picked, spent, strict=True):
                rates[number].append(rate)
    assert abs(float(np.mean(rates[0])) / TARGETS["low"] - 1) < 0.1
    assert abs(float(np.mean(rates[1])) / TARGETS["high"] - 1) < 0.1


def test_points_come_up_alike_whatever_the_batch() -> None:
    control = RateControl(POINTS, TARGETS)
    for count in (1, 2, 5):
        rng = np.random.default_rng(3)
        chains: Counter[tuple[int, ...]] = Counter()
        points: Counter[int] = Counter()
        for _ in range(600):
            stages, picked, weights = control.draw(rng, count)
            assert len(picked) == count
            assert (weights is None) == (stages == (0,))
            assert weights is None or len(weights) == count
            assert all(control.stages[number] == stages for number in picked)
            chains[stages] += 1
            points.update(picked)
        assert abs(chains[0, 1] / 600 - 2 / 3) < 0.1
        assert all(abs(points[number] / (600 * count) - 1 / 3) < 0.1 for number in range(3))


def test_a_point_comes_up_as_often_as_its_share_says() -> None:
    points = {**POINTS, "free": PointConfig((0,), share=0.2)}
    control, rng = RateControl(points, TARGETS), np.random.default_rng(1)
    drawn = Counter(control.draw(rng, 4)[0] for _ in range(1000))
    assert abs(drawn[(0,)] / 1000 - 0.2 / 2.2) < 0.03


def test_a_codec_without_points_has_no_stages() -> None:
    assert RateControl({}, {}).draw(np.random.default_rng(0), 4) == ((), [], None)
