"""Labels of frames, and the condition on them under which a frame is asked about."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.load import ImageSource
from aligned_vq.images.modality import CameraModality
from edge_client.classifier.adaptation import LabelAdaptation
from edge_client.classifier.classifier import EdgeClassifier, Labels
from edge_client.input.payload_source import is_payload_file

# `or` ends a term only behind its number: a label may have the word in it, as in "area 51 or base".
_TERM = re.compile(r"\s*(.+?)\s*([<>])\s*([0-9]*\.?[0-9]+)(?:\s+or\s+(?=\S)|\s*$)")


@dataclass(frozen=True)
class ProbabilityTerm:
    """One comparison: the label's probability is above, or below, a number."""

    label: str
    is_above: bool
    probability: float

    def holds(self, probabilities: dict[str, float]) -> bool:
        """Whether it is so, by label."""
        found = probabilities[self.label]
        return found > self.probability if self.is_above else found < self.probability


def parse_condition(text: str, labels: Sequence[str]) -> tuple[ProbabilityTerm, ...]:
    """The terms of `LABEL>P or LABEL<P or ...`, of which one has to hold.

    Args:
        text: such as `stairs>0.6 or corridor<0.1`.
        labels: that frames are classified with.

    Raises:
        ConfigError: the text has another form, or a label that is not one of these.
    """
    terms: list[ProbabilityTerm] = []
    rest = text
    while rest or not terms:
        match = _TERM.match(rest)
        if match is None or float(match[3]) > 1:
            raise ConfigError(
                "expected ask_when as LABEL>P or LABEL<P with P from 0 to 1, several joined by "
                f"'or', got {rest!r}; write it as in: stairs>0.6 or corridor<0.1"
            )
        rest = rest[match.end() :]
        if match[1] not in labels:
            raise ConfigError(
                f"expected ask_when with labels that frames are classified with "
                f"({', '.join(labels[:20])}), got {match[1]!r}; add it to labels"
            )
        terms.append(ProbabilityTerm(match[1], match[2] == ">", float(match[3])))
    return tuple(terms)


class FrameLabels:
    """Classifies frames on this machine, and says which are worth a question.

    Args:
        classifier: the caller closes it.
        labels: as for `EdgeClassifier.classify`.
        ask_when: see `parse_condition`; empty: every frame.
        adapt: whether recognition adapts to what the camera sees.

    Raises:
        ConfigError: a label cannot be used, or the condition is none.
    """

    def __init__(
        self, classifier: EdgeClassifier, labels: Labels, ask_when: str, adapt: bool = False
    ) -> None:
        self._classifier = classifier
        try:
            self._labels = classifier.check_labels(labels)
        except InvalidInput as error:
            raise ConfigError(f"labels: {error}") from error
        self._adapt = adapt
        self._adaptations: dict[CameraModality, LabelAdaptation] = {}
        self._terms = parse_condition(ask_when, self._labels) if ask_when else ()

    def of(
        self, image: ImageSource, name: str, modality: CameraModality = "rgb"
    ) -> dict[str, float]:
        """Probabilities by label, the most probable first.

        Args:
            image: of the frame.
            name: of its file, or empty.
            modality: of the image.

        Raises:
            InvalidInput: the image cannot be used, is a payload, which has no pixels, or is of a
                modality that the classifier was not trained for.
        """
        if is_payload_file(name):
            raise InvalidInput(
                f"expected an image to classify, got the payload {name}; watch images, or leave "
                "labels out"
            )
        if self._adapt and modality not in self._adaptations:
            self._adaptations[modality] = self._classifier.adaptation(self._labels, modality)
        adaptation = self._adaptations.get(modality)
        found = self._classifier.classify(image, self._labels, modality, adaptation)
        return dict(found.scores)

    def is_wanted(self, probabilities: dict[str, float]) -> bool:
        """Whether a frame with these probabilities is asked about."""
        return not self._terms or any(term.holds(probabilities) for term in self._terms)
