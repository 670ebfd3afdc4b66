"""Positive and negative caches of a stream's embeddings, after TDA (CVPR 2024, arXiv 2403.18293).

LQA keeps TDA's caches in low precision; the values of its own are not known. So these are TDA's
values, our quantisation: see `Entries`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from aligned_vq.lqa.entries import Entries
from aligned_vq.lqa.probabilities import entropy_nats, softmax

MAX_STATE_BYTES = 1_000_000
"""Of one stream."""
TDA_SCALE = 100.0
"""What TDA multiplies cosines by; its votes are added to such logits."""


@dataclass(frozen=True)
class CacheSettings:
    """TDA's values, one set for all data.

    Args:
        shots: entries of a class in the positive and in the negative cache.
        weights: of the two caches' votes.
        sharpness: of the two caches' votes: how much faster they fall with the distance.
        entropy: window of an image's entropy in nats over log2 of the number of classes, within
            which it enters the negative cache.
        least_probability: of a class that a negative entry speaks against.
        limit_bytes: of both caches together; beyond it only more certain images enter.
        votes_first: an image is judged before it enters; TDA lets it vote for itself.
    """

    shots: tuple[int, int] = (3, 2)
    weights: tuple[float, float] = (2.0, 0.117)
    sharpness: tuple[float, float] = (5.0, 1.0)
    entropy: tuple[float, float] = (0.2, 0.5)
    least_probability: float = 0.03
    limit_bytes: int = MAX_STATE_BYTES
    votes_first: bool = True


class ExemplarCaches:
    """The state of one stream: images that were recognised with certainty vote for their class,
    uncertain ones against the classes that they could have been.

    Args:
        classes: C.
        dim: D, width of the embeddings.
        settings: of the caches.
    """

    def __init__(self, classes: int, dim: int, settings: CacheSettings | None = None) -> None:
        self.settings = settings or CacheSettings()
        self._classes = classes
        positive_bytes, negative_bytes = dim + 8, dim + 8 + -(-classes // 8)
        # The shares of the two caches are those of their sizes if nothing limits them.
        shots = self.settings.shots
        whole = classes * (shots[0] * positive_bytes + shots[1] * negative_bytes)
        share = min(1.0, self.settings.limit_bytes / whole)
        limits = [max(1, int(share * classes * number)) for number in shots]
        self._positive = Entries(dim, shots[0], limits[0])
        self._negative = Entries(dim, shots[1], limits[1], mask_bits=classes)

    def adapt(
        self, embedding: NDArray[np.float32], cosines: NDArray[np.float64], scale: float
    ) -> NDArray[np.float64]:
        """The corrected cosines `[C]` of the stream's next image, which is then remembered.

        Args:
            embedding: of the image, a unit vector `[D]`.
            cosines: with the classes, `[C]`.
            scale: what cosines are multiplied by before a softmax.
        """
        if not (np.isfinite(embedding).all() and np.isfinite(cosines).all()):
            return cosines
        if self.settings.votes_first:
            corrected = cosines + self._votes(embedding)
            self._remember(embedding, cosines, scale)
            return corrected
        self._remember(embedding, cosines, scale)
        return cosines + self._votes(embedding)

    def tensors(self) -> dict[str, NDArray[np.generic]]:
        """The state, for `restore`."""
        return {
            f"{name}.{key}": tensor
            for name, entries in self._named().items()
            for key, tensor in entries.tensors().items()
        }

    def restore(self, tensors: Mapping[str, NDArray[np.generic]]) -> None:
        """Put a saved state back; InvalidInput if it is of other labels or another bundle."""
        for name, entries in self._named().items():
            entries.restore({key: tensors[f"{name}.{key}"] for key in entries.tensors()})

    @property
    def state_bytes(self) -> int:
        """Memory of the state."""
        return self._positive.state_bytes + self._negative.state_bytes

    def _named(self) -> dict[str, Entries]:
        return {"positive": self._positive, "negative": self._negative}

    def _votes(self, embedding: NDArray[np.float32]) -> NDArray[np.float64]:
        """What is added to the cosines, `[C]`."""
        votes = np.zeros(self._classes)
        (weight, against), (sharp, flat) = self.settings.weights, self.settings.sharpness
        if len(self._positive):
            affinity = np.exp(-sharp * (1 - self._positive.similarities(embedding)))
            votes += weight * np.bincount(self._positive.classes, affinity, self._classes)
        if len(self._negative):
            affinity = np.exp(-flat * (1 - self._negative.similarities(embedding)))
            votes -= against * (affinity @ self._negative.masks())
        return votes / TDA_SCALE

    def _remember(
        self, embedding: NDArray[np.float32], cosines: NDArray[np.float64], scale: float
    ) -> None:
        probabilities = softmax(scale * cosines)
        entropy = entropy_nats(probabilities)
        number = int(np.argmax(cosines))
        self._positive.add(embedding, number, entropy)
        low, high = self.settings.entropy
        if low < entropy / np.log2(max(2, self._classes)) < high:
            mask = probabilities > self.settings.least_probability
            self._negative.add(embedding, number, entropy, mask)
