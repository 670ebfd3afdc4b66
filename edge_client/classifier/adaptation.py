"""The state of one stream of images whose recognition adapts to what its camera sees."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.classifier.manifest import ClassifierManifest, ModalityInput
from aligned_vq.errors import InvalidInput
from aligned_vq.images.preprocess import View
from aligned_vq.lqa.caches import CacheSettings, ExemplarCaches
from aligned_vq.lqa.choice import CorrectionChoice
from aligned_vq.lqa.corrections import Correction, InputCorrections
from aligned_vq.lqa.probabilities import entropy_nats, softmax

Encoder = Callable[[NDArray[Any]], NDArray[np.float32]]
"""Images `[B, 3, S, S]` to embeddings `[B, D]`, unit vectors."""


class LabelAdaptation:
    """Belongs to one stream, one modality of it and its labels; never share it. Thread-safe.

    Images are corrected as serves recognition best (`CorrectionChoice`); then those that were
    recognised with certainty vote on the others (`ExemplarCaches`). `EdgeClassifier.adaptation`
    makes it.

    Args:
        manifest: of the classifier bundle.
        modality: of the stream's images.
        labels: of the stream.
        settings: of the caches.
    """

    def __init__(
        self,
        manifest: ClassifierManifest,
        modality: ModalityInput,
        labels: Sequence[str],
        settings: CacheSettings | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self._manifest, self._modality = manifest, modality
        self._settings = settings
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        caches = ExemplarCaches(len(self.labels), self._manifest.embedding_dim, self._settings)
        corrections = InputCorrections(self._manifest.processor, self._modality.statistics)
        with self._lock:
            self._caches, self._corrections = caches, corrections
            self._choice = CorrectionChoice(corrections.choices)

    @property
    def state_bytes(self) -> int:
        """Memory of the caches; the rest are a few numbers."""
        return self._caches.state_bytes

    @property
    def correction(self) -> Correction:
        """What is done to images now."""
        return self._choice.chosen

    def cosines(
        self, view: View, names: Sequence[str], texts: NDArray[np.float32], encoder: Encoder
    ) -> NDArray[np.float64]:
        """The adapted cosines `[C]` of the stream's next image, which is then remembered.

        Args:
            view: the image.
            names: the labels.
            texts: their embeddings, `[C, D]`.
            encoder: of images.

        Raises:
            InvalidInput: the labels or the modality are not those of the stream.
        """
        if tuple(names) != self.labels:
            raise InvalidInput(
                f"expected the labels of the adapted stream ({', '.join(self.labels)[:80]}), got "
                f"{', '.join(names)[:80]}; use another adaptation for other labels"
            )
        if view.modality != self._modality.modality:
            raise InvalidInput(
                f"expected images of {self._modality.modality}, as the adapted stream has, got "
                f"{view.modality}; use another adaptation for another camera"
            )
        with self._lock:
            return self._adapt(view, texts, encoder)

    def _adapt(
        self, view: View, texts: NDArray[np.float32], encoder: Encoder
    ) -> NDArray[np.float64]:
        scale = self._modality.logit_scale
        self._corrections.see(view)
        wanted = self._choice.wanted()
        doubts: dict[Correction, float] = {}
        embeddings: dict[Correction, NDArray[np.float32]] = {}
        for correction in wanted:
            # One at a time, as graphs may have a fixed batch.
            embedding = encoder(self._corrections.corrected(view, correction)[None])[0]
            embeddings[correction] = embedding
            doubts[correction] = entropy_nats(softmax(scale * (texts @ embedding)))
        own = embeddings[wanted[0]]
        self._choice.observe(doubts)
        return self._caches.adapt(own, (texts @ own).astype(np.float64), scale)
