"""Holds every operating point at its mean rate while the latents move under it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from aligned_vq.training.config import PointConfig

GAIN = 0.1
"""How far, in nats per step, a rate twice its target moves the logarithm of a rate weight."""
SPREAD = 0.2
"""Rate weights of a step lie within this many nats of the point's."""


class RateControl(nn.Module):
    """One rate weight per operating point with a mean rate, nudged after every step.

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
        self.register_buffer("log_weights", torch.zeros(len(self.names), dtype=torch.float64))

    def chains(self) -> list[tuple[int, ...]]:
        """Different stage tuples of the points, in order."""
        return list(dict.fromkeys(self.stages))

    def draw(
        self, rng: np.random.Generator, count: int
    ) -> tuple[tuple[int, ...], list[int], Tensor | None]:
        """Stages of a step, the point of each of `count` images, and rate weights `[count]`.

        A step keeps to one chain of stages, which comes up as often as its points' shares say; its
        images are dealt out evenly among them. Without points (no codec) there are no stages.
        """
        if not self.stages:
            return (), [], None
        shares = self.shares / self.shares.sum()
        stages = self.stages[int(rng.choice(len(shares), p=shares))]
        own = [number for number, other in enumerate(self.stages) if other == stages]
        # Shuffled before and after: a step may have fewer images than the chain has points.
        picked = [int(n) for n in rng.permutation(np.resize(rng.permutation(own), count))]
        jitter = rng.uniform(-SPREAD, SPREAD, count)
        if all(self.targets_bits[number] is None for number in own):
            return stages, picked, None
        weights = [
            0.0 if self.targets_bits[n] is None else math.exp(float(self.log_weights[n]) + float(j))
            for n, j in zip(picked, jitter, strict=True)
        ]
        return stages, picked, torch.tensor(weights)

    def observe(self, picked: Sequence[int], rate_bits: Sequence[float]) -> None:
        """Nudge the weights of the points that images were coded with."""
        for number in set(picked):
            target = self.targets_bits[number]
            if target is None:
                continue
            rates = [rate for n, rate in zip(picked, rate_bits, strict=True) if n == number]
            off = math.log2(max(1.0, sum(rates) / len(rates)) / target)
            self.log_weights[number] += GAIN * max(-1.0, min(1.0, off))
