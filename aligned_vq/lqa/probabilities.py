"""Probabilities of labels and the doubt in them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """Probabilities `[C]` of finite logits `[C]`."""
    weights = np.exp(logits - logits.max())
    probabilities: NDArray[np.float64] = weights / weights.sum()
    return probabilities


def entropy_nats(probabilities: NDArray[np.float64]) -> float:
    """The entropy of probabilities `[C]`, in nats."""
    return float(-(probabilities * np.log(np.maximum(probabilities, 1e-12))).sum())
