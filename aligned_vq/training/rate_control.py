"""Holds every operating point at its mean rate while the codec changes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aligned_vq.calibration.codec import CodecPlan
from aligned_vq.calibration.rate import fit_rate_weight, mean_rate_bits
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.training.config import PointConfig

GAIN = 0.1
"""Nats per step by which a mean rate of twice its target raises the logarithm of a rate weight."""
SPREAD = 0.2
"""The rate weight of an image is drawn within this many nats of its point's."""


class RateControl(nn.Module):
    """One rate weight per operating point with a mean rate, adjusted after every step.

    Args:
        points: the run's operating points.
        targets_bits: estimated bits of an image to hold, by point name.
    """

    log_weights: Tensor

    def __init__(self, points: dict[str, PointConfig], targets_bits: dict[str, float]) -> None:
        super().__init__()
        self.names = list(points)
        self.stages = [tuple(point.stages) for point in points.values()]
        self.shares = np.array([point.share for point in points.values()])
        self.targets_bits = [targets_bits.get(name) for name in self.names]
        # float64, so that rounding does not swallow small steps.
        self.register_buffer("log_weights", torch.zeros(len(self.names), dtype=torch.float64))

    def chains(self) -> list[tuple[int, ...]]:
        """The distinct stage tuples of the points, in order."""
        return list(dict.fromkeys(self.stages))

    def draw(
        self, rng: np.random.Generator, count: int
    ) -> tuple[tuple[int, ...], list[int], Tensor | None]:
        """Stages of a step, the point of each of `count` images, and rate weights `[count]`.

        All images of a step use the same chain of stages, drawn by the shares of its points, and
        are divided evenly among the points of that chain. Weights are None where none of these has
        a mean rate. Without points (identity quantizer) there are no stages.
        """
        if not self.stages:
            return (), [], None
        log_weights = [
            None if target is None else float(weight)
            for target, weight in zip(self.targets_bits, self.log_weights, strict=True)
        ]
        return draw_points(self.stages, self.shares, log_weights, rng, count)

    def observe(self, picked: Sequence[int], rate_bits: Sequence[float]) -> None:
        """Adjust the weights of the points that images were coded with.

        Args:
            picked: the point of each image.
            rate_bits: the estimated bits of each image.
        """
        for number in set(picked):
            target = self.targets_bits[number]
            if target is None:
                continue
            rates = [rate for n, rate in zip(picked, rate_bits, strict=True) if n == number]
            octaves = math.log2(max(1.0, sum(rates) / len(rates)) / target)
            # Bounded, because one unusual batch should not move the weight far.
            self.log_weights[number] += GAIN * max(-1.0, min(1.0, octaves))

    @torch.no_grad()
    def fit(self, quantizer: AlignedVQ, plan: CodecPlan, features: Tensor) -> None:
        """Set the weights at which estimated mean rates on features `[M, N, D]` meet targets."""
        latents = torch.cat([quantizer.latents(part) for part in torch.split(features, 16)])
        for number, point in enumerate(plan.operating_points):
            target = self.targets_bits[number]
            if target is not None:
                fitted = fit_rate_weight(
                    point, target, lambda point: mean_rate_bits(quantizer, latents, point)
                )
                self.log_weights[number] = math.log(fitted.rate_weight)


def draw_points(
    stages: Sequence[tuple[int, ...]],
    shares: NDArray[np.float64],
    log_weights: Sequence[float | None],
    rng: np.random.Generator,
    count: int,
) -> tuple[tuple[int, ...], list[int], Tensor | None]:
    """Stages of a step, the point of each of `count` images, and rate weights `[count]`.

    Args:
        stages: of each operating point.
        shares: of the steps, relative to each other.
        log_weights: logarithm of each point's rate weight; None: it has none.
        rng: decides on everything.
        count: of the images.

    Returns:
        As `RateControl.draw`.
    """
    chain = stages[int(rng.choice(len(shares), p=shares / shares.sum()))]
    candidates = [number for number, other in enumerate(stages) if other == chain]
    # Shuffled before and after: a step may have fewer images than the chain has points.
    picked = [int(n) for n in rng.permutation(np.resize(rng.permutation(candidates), count))]
    jitter = rng.uniform(-SPREAD, SPREAD, count)
    if all(log_weights[number] is None for number in candidates):
        return chain, picked, None
    weights = [
        0.0 if (log_weight := log_weights[n]) is None else math.exp(log_weight + float(j))
        for n, j in zip(picked, jitter, strict=True)
    ]
    return chain, picked, torch.tensor(weights)
