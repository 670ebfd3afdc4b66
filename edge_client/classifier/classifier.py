"""EdgeClassifier: recognises any labels in images, on this machine alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from aligned_vq.classifier.files import IMAGE, read_classifier, read_part
from aligned_vq.classifier.manifest import ClassifierManifest
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.formats import DECODE_SECONDS, DEFAULT_FORMATS, check_formats
from aligned_vq.images.load import ImageSource
from aligned_vq.images.modality import CameraModality
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.preprocess import View, normalize
from aligned_vq.lqa.probabilities import softmax
from aligned_vq.shipped import classifier_source
from aligned_vq.stopwatch import Stopwatch
from edge_client.classifier import tokenizing
from edge_client.classifier.adaptation import LabelAdaptation
from edge_client.classifier.label_embeddings import LabelEmbeddings
from edge_client.classifier.tower import OnnxTower
from edge_client.input.image_opener import ImageOpener

Labels = Sequence[str] | str | None
"""Texts, the name of a label set of the bundle, or None for its default set."""


class ScoredLabel(NamedTuple):
    """A label and its probability among the labels of the call."""

    label: str
    probability: float


@dataclass(frozen=True)
class Classification:
    """Labels with their probabilities, which sum to 1, the most probable first."""

    scores: tuple[ScoredLabel, ...]
    model_ms: float
    """Time of the image encoder, and of an adaptation."""

    def __iter__(self) -> Iterator[ScoredLabel]:
        """The labels, the most probable first."""
        return iter(self.scores)

    @property
    def best(self) -> str:
        """The most probable label."""
        return self.scores[0].label

    def probability(self, label: str) -> float:
        """The probability of a label; KeyError if it was not asked for."""
        return dict(self.scores)[label]

    def to_dict(self, top: int | None = None) -> dict[str, Any]:
        """The `top` most probable labels, or all, as JSON values."""
        labels = [{"label": own.label, "probability": own.probability} for own in self.scores[:top]]
        return {"labels": labels, "model_ms": self.model_ms}


class EdgeClassifier:
    """Classifies images with labels that are given as text. Thread-safe; no network.

        classifier = EdgeClassifier("reference")
        result = classifier.classify("room.jpg", ["kitchen", "bathroom", "stairs"])

    The image encoder is a student of a larger dual encoder (Cai et al., "Self-Adapting Large
    Visual-Language Models to Edge Devices across Visual Modalities", ECCV 2024).

    Args:
        bundle: directory of a classifier bundle, or `reference` for the one in this package.
        threads: compute threads; 0: one per core.
        image_formats: formats of files and encoded bytes that may be opened.
        isolate_images: decode them in separate processes, as `EdgeConfig.isolate_images` does.
        image_seconds: longest decoding time of an image in such a process.

    Raises:
        ConfigError: the bundle is incomplete, damaged or of another version, or a setting is out of
            range.
    """

    def __init__(
        self,
        bundle: str | Path = "reference",
        *,
        threads: int = 0,
        image_formats: Sequence[str] = DEFAULT_FORMATS,
        isolate_images: bool = False,
        image_seconds: float = DECODE_SECONDS,
    ) -> None:
        check_formats(image_formats)
        if not isinstance(image_seconds, int | float) or not image_seconds > 0:
            raise ConfigError(f"image_seconds must be a positive number, got {image_seconds!r}")
        folder = classifier_source(bundle)
        self.manifest: ClassifierManifest = read_classifier(folder)
        self._labels = LabelEmbeddings(folder, self.manifest, threads)
        graph = read_part(folder, IMAGE, self.manifest.image_digest)
        dim = self.manifest.embedding_dim
        self._tower = OnnxTower(graph, str(folder / IMAGE), "pixels", dim, threads)
        self._opener = ImageOpener(
            self.manifest.processor, image_formats, isolate_images, image_seconds
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the decoding processes, if there are any."""
        self._opener.close()

    @property
    def takes_any_label(self) -> bool:
        """Whether labels outside the bundle's sets can be used here."""
        return self.manifest.takes_any_label and tokenizing.is_installed()

    def load(self) -> None:
        """Load the text encoder, if it can be used, before the first label needs it.

        Raises:
            ConfigError: it is damaged.
        """
        if self.takes_any_label:
            self._labels.load()

    def classify(
        self,
        image: ImageSource | View,
        labels: Labels = None,
        modality: CameraModality = "rgb",
        adaptation: LabelAdaptation | None = None,
    ) -> Classification:
        """The probability of each label.

        Args:
            image: a path, encoded bytes, a PIL image or an array (see `load_image` for rgb,
                `load_pixels` for the other modalities), or a view that `view` returned.
            labels: texts, the name of a label set, or None for the bundle's default set.
            modality: what the camera measures; a view has its own.
            adaptation: of the stream that the image belongs to, see `adaptation`; None: each image
                is judged by itself.

        Raises:
            InvalidInput: the image or a label cannot be used, the bundle was not trained for the
                modality, or it has no text encoder and does not know a label.
            ConfigError: the text encoder cannot be used.
            Overloaded: all decoding slots are taken.
        """
        # Labels first: a mistake in them is noticed before the image is decoded.
        names, texts = self._labels.of(labels)
        view = self._checked(image) if isinstance(image, View) else self.view(image, modality)
        stopwatch = Stopwatch()
        scale = self.manifest.modality_input(view.modality).logit_scale
        if adaptation is None:
            cosines = (texts @ self.embed(view)).astype(np.float64)
        else:
            cosines = adaptation.cosines(view, names, texts, self._tower.run)
        stopwatch.lap("image")
        probabilities = softmax(scale * cosines)
        order = np.argsort(-probabilities, kind="stable")
        scores = tuple(ScoredLabel(names[n], float(probabilities[n])) for n in order)
        return Classification(scores, stopwatch.timings().stages_ns["image"] / 1e6)

    def adaptation(self, labels: Labels = None, modality: str = "rgb") -> LabelAdaptation:
        """A new stream's adaptation, for images of one camera with these labels.

        The state belongs to the stream: give it to `classify` with its images alone. Raises as
        `classify`.
        """
        chosen = self.manifest.modality_input(modality)
        return LabelAdaptation(self.manifest, chosen, self.check_labels(labels))

    def preparation(self, modality: str = "rgb") -> Preparation:
        """How an image of a modality becomes a view; InvalidInput if the bundle has it not."""
        chosen = self.manifest.modality_input(modality)
        names = (entry.modality for entry in self.manifest.modalities)
        return Preparation.among(self.manifest.processor, chosen.modality, chosen.range, names)

    def view(self, image: ImageSource, modality: str = "rgb") -> View:
        """The encoder's view of an image: uint8 `[S, S, 3]`. Errors as `classify`."""
        return self._opener.view(image, self.preparation(modality))

    def text_embeddings(self, labels: Labels = None) -> NDArray[np.float32]:
        """The embeddings of labels, `[L, D]` float32, unit vectors; raises as `classify`."""
        return self._labels.of(labels)[1]

    def check_labels(self, labels: Labels) -> tuple[str, ...]:
        """The labels that such an argument stands for; raises as `classify`."""
        return self._labels.of(labels)[0]

    def embed(self, view: View) -> NDArray[np.float32]:
        """The image's embedding, `[D]` float32, a unit vector."""
        rows = self._tower.run(normalize(view, self.manifest.processor)[None])
        row: NDArray[np.float32] = rows[0]
        return row

    def _checked(self, view: View) -> View:
        """A view; InvalidInput unless `view` of this bundle may have returned it."""
        expected = (*self.manifest.processor.output_size, 3)
        if view.pixels.shape != expected:
            raise InvalidInput(
                f"expected a view of {list(expected)} of this classifier, got "
                f"{list(view.pixels.shape)}: make it with `EdgeClassifier.view`"
            )
        self.manifest.modality_input(view.modality)
        return view
