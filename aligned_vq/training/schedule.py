"""The learning rate over a stage."""

from __future__ import annotations

import math


def warm_cosine(step: int, steps: int, warmup_steps: int, floor: float = 0.02) -> float:
    """Share of the full rate at a step: linear warm-up, then a cosine down to `floor`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))
