"""The request and the responses of classification."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict

from aligned_vq.dual_encoder.prompts import MAX_LABEL_CHARS
from aligned_vq.errors import InvalidInput
from aligned_vq.images.modality import CameraModality
from edge_client.classifier.classifier import Classification, EdgeClassifier

MAX_REQUEST_LABELS = 256
"""Each new one costs a run of the text encoder, on a device that answers others as well."""


class ClassifyRequest(BaseModel):
    """An image as a data URI; labels as texts or as the name of a label set, by default the first;
    and what the camera measures."""

    model_config = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    image: str
    labels: list[str] | str | None = None
    modality: CameraModality = "rgb"

    def check_count(self) -> None:
        """InvalidInput if there are more labels than a request may have."""
        if isinstance(self.labels, list) and len(self.labels) > MAX_REQUEST_LABELS:
            raise InvalidInput(
                f"expected at most {MAX_REQUEST_LABELS} labels in a request, got "
                f"{len(self.labels)}; send several requests, or put them into the bundle"
            )


def response_fields(
    result: Classification, classifier: EdgeClassifier, modality: str
) -> dict[str, Any]:
    """The body of a response: labels with probabilities, the most probable first."""
    return {
        "object": "classification",
        "classifier": classifier.manifest.name,
        "modality": modality,
        **result.to_dict(),
    }


def description(classifier: EdgeClassifier) -> dict[str, Any]:
    """What a caller may ask the classifier for."""
    manifest = classifier.manifest
    return {
        "name": manifest.name,
        "manifest": manifest.digest().hex(),
        "image_size": [manifest.side_px, manifest.side_px],
        "modalities": [own.modality for own in manifest.modalities],
        "label_sets": [
            {"name": own.name, "labels": list(own.labels)} for own in manifest.label_sets
        ],
        "any_label": classifier.takes_any_label,
        "max_labels": MAX_REQUEST_LABELS,
        "max_label_chars": MAX_LABEL_CHARS,
    }
