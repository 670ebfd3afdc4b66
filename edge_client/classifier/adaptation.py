"""The state of one stream of images whose recognition adapts to what its camera sees."""

from __future__ import annotations

import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from aligned_vq.classifier.manifest import ClassifierManifest
from aligned_vq.errors import InvalidInput
from aligned_vq.lqa.caches import CacheSettings, ExemplarCaches


class LabelAdaptation:
    """Belongs to one stream, one modality of it and its labels; never share it. Thread-safe.

    `EdgeClassifier.adaptation` makes it.

    Args:
        manifest: of the classifier bundle.
        labels: of the stream.
        settings: of the caches.
    """

    def __init__(
        self,
        manifest: ClassifierManifest,
        labels: Sequence[str],
        settings: CacheSettings | None = None,
    ) -> None:
        self.labels = tuple(labels)
        self._dim = manifest.embedding_dim
        self._settings = settings
        self._lock = threading.Lock()
        self.reset()

    def reset(self) -> None:
        """Forget every image."""
        caches = ExemplarCaches(len(self.labels), self._dim, self._settings)
        with self._lock:
            self._caches = caches

    @property
    def state_bytes(self) -> int:
        """Memory of the state."""
        return self._caches.state_bytes

    def adapt(
        self,
        names: Sequence[str],
        embedding: NDArray[np.float32],
        cosines: NDArray[np.float64],
        scale: float,
    ) -> NDArray[np.float64]:
        """The corrected cosines `[C]` of the stream's next image, which is then remembered.

        Args:
            names: the labels.
            embedding: of the image, `[D]`.
            cosines: between it and each label, `[C]`.
            scale: inverse temperature of the image's modality.

        Raises:
            InvalidInput: the labels are not those of the stream.
        """
        if tuple(names) != self.labels:
            raise InvalidInput(
                f"expected the labels of the adapted stream ({', '.join(self.labels)[:80]}), got "
                f"{', '.join(names)[:80]}; use another adaptation for other labels"
            )
        with self._lock:
            return self._caches.adapt(embedding, cosines, scale)
