"""ClassifierManifest: what a classifier bundle holds, and the digests of its files."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from aligned_vq.dual_encoder.prompts import check_labels, check_template
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.files.json_manifest import build_manifest, parse_manifest
from aligned_vq.files.typed_fields import check_declared
from aligned_vq.images.depth import RangeSettings, check_range, student_processor
from aligned_vq.images.modality import CameraModality
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.lqa.statistics import ChannelStatistics
from aligned_vq.types import digest_of

CLASSIFIER_SCHEMA = 1
MAX_EMBEDDING_DIM = 65_536


@dataclass(frozen=True)
class ModalityInput:
    """A modality that the image encoder was trained for.

    Args:
        modality: its name.
        logit_scale: inverse temperature: probabilities are the softmax of this times the cosines.
            Each modality has its own, since the encoder is not as right about each.
        range: of grey values; None for rgb, and only there.
        statistics: of images that the encoder was calibrated with; None: not known, and so a stream
            is not aligned to them.
    """

    modality: CameraModality
    logit_scale: float
    range: RangeSettings | None = None
    statistics: ChannelStatistics | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.logit_scale) and self.logit_scale > 0):
            raise ConfigError(f"logit_scale must be above 0 and finite, got {self.logit_scale}")
        check_range(self.modality, self.range)


@dataclass(frozen=True)
class LabelSet:
    """Labels whose text embeddings are in the bundle, in the order of `labels.safetensors`."""

    name: str
    labels: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.name or "," in self.name:
            raise ConfigError(
                f"expected a label set's name without commas, got {self.name!r}; rename it"
            )
        try:
            if check_labels(self.labels) != self.labels:
                raise InvalidInput("expected labels without white space around them; strip them")
        except InvalidInput as error:
            raise ConfigError(f"label set {self.name!r}: {error}") from error


@dataclass(frozen=True)
class ClassifierManifest:
    """The content of `classifier.json`. Raises ConfigError on values that do not fit."""

    name: str
    """Informative: the student and its training run."""
    embedding_dim: int
    """Width D of the joint space of images and texts."""
    template: str
    """The sentence around a label; see `aligned_vq.dual_encoder.prompts.prompt`."""
    context_tokens: int
    """Width L of the text encoder's input; longer texts are refused."""
    side_px: int
    """Height and width S of the image encoder's input."""
    image_mean: tuple[float, float, float]
    """Per channel, of pixels from 0 to 1."""
    image_std: tuple[float, float, float]
    modalities: tuple[ModalityInput, ...]
    label_sets: tuple[LabelSet, ...]
    """The default first."""
    image_digest: str
    """SHA-256 of `image.onnx`, in hexadecimal."""
    labels_digest: str
    """SHA-256 of `labels.safetensors`."""
    text_digest: str | None = None
    """SHA-256 of `text.onnx`; None: only the labels of the sets are known."""
    tokenizer_digest: str | None = None
    """SHA-256 of `tokenizer.json`; set if `text_digest` is."""
    schema_version: int = CLASSIFIER_SCHEMA

    def __post_init__(self) -> None:
        whole = {"embedding_dim": MAX_EMBEDDING_DIM, "context_tokens": 2**16}
        for name, largest in whole.items():
            if not 1 <= getattr(self, name) <= largest:
                raise ConfigError(f"{name} must be 1 to {largest}, got {getattr(self, name)}")
        check_template(self.template)
        for what, names in (
            ("modalities", [entry.modality for entry in self.modalities]),
            ("label sets", [entry.name for entry in self.label_sets]),
        ):
            if not names or len(set(names)) < len(names):
                raise ConfigError(
                    f"expected one or more {what} with distinct names, got {names}; export the "
                    "classifier again"
                )
        if (self.text_digest is None) != (self.tokenizer_digest is None):
            raise ConfigError(
                "expected text_digest and tokenizer_digest together, got one of them; export the "
                "classifier again"
            )
        _ = self.processor  # checks side, mean and deviation

    @cached_property
    def processor(self) -> ProcessorSettings:
        """The image preparation: resized to S x S, without a crop, bicubic; then normalised."""
        return student_processor(self.side_px, self.image_mean, self.image_std)

    @property
    def takes_any_label(self) -> bool:
        """Whether the bundle has a text encoder."""
        return self.text_digest is not None

    def modality_input(self, modality: str) -> ModalityInput:
        """The settings of a modality; InvalidInput if the encoder was not trained for it."""
        for entry in self.modalities:
            if entry.modality == modality:
                return entry
        names = ", ".join(entry.modality for entry in self.modalities)
        raise InvalidInput(
            f"expected a modality of the classifier {self.name!r} ({names}), got "
            f"{modality[:40]!r}; choose one of these, or a bundle that has it"
        )

    def label_set(self, name: str) -> LabelSet:
        """A label set by name; InvalidInput if there is none of that name."""
        for entry in self.label_sets:
            if entry.name == name:
                return entry
        names = ", ".join(entry.name for entry in self.label_sets)
        raise InvalidInput(
            f"expected a label set of the classifier {self.name!r} ({names}), got {name[:40]!r}; "
            "choose one of these, or give the labels as a list"
        )

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values, in order."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        values["modalities"] = {
            entry.modality: {
                "logit_scale": entry.logit_scale,
                "range": None if entry.range is None else entry.range.to_dict(),
                "statistics": None if entry.statistics is None else entry.statistics.to_dict(),
            }
            for entry in self.modalities
        }
        values["label_sets"] = [asdict(entry) for entry in self.label_sets]
        return values

    def to_json(self) -> str:
        """The manifest as JSON."""
        return json.dumps(self.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)

    def digest(self) -> bytes:
        """16 bytes that identify the bundle, as the manifest holds the digest of every file."""
        return digest_of(self.to_json().encode())

    @classmethod
    def from_json(cls, text: str, source: str = "classifier.json") -> ClassifierManifest:
        """The manifest in a JSON text; a ConfigError names `source` and the fault."""
        raw = parse_manifest(text, source, "copy the bundle again")
        if not isinstance(raw, dict) or "schema_version" not in raw:
            raise ConfigError(
                f"{source}: expected a classifier with a schema_version, got none; copy the bundle "
                "again"
            )
        # Before all fields, because another schema may have others.
        if raw["schema_version"] != CLASSIFIER_SCHEMA:
            raise ConfigError(
                f"{source}: expected classifier schema {CLASSIFIER_SCHEMA}, got "
                f"{raw['schema_version']!r}; install the release that wrote it, or export it again"
            )
        return build_manifest(cls._from_dict, raw, source, "export the classifier again")

    @classmethod
    def _from_dict(cls, raw: Mapping[str, Any]) -> ClassifierManifest:
        # JSON has no tuples, and a frozen dataclass needs hashable fields.
        manifest = cls(
            **{
                **raw,
                "image_mean": tuple(raw["image_mean"]),
                "image_std": tuple(raw["image_std"]),
                "modalities": tuple(_modalities(raw["modalities"])),
                "label_sets": tuple(
                    LabelSet(**{**entry, "labels": tuple(entry["labels"])})
                    for entry in raw["label_sets"]
                ),
            }
        )
        # Dataclasses do not check types: JSON may hold a string for a declared number.
        check_declared(manifest)
        return manifest


def _modalities(raw: Mapping[str, Mapping[str, Any]]) -> Iterator[ModalityInput]:
    for name, entry in raw.items():
        greys, moments = entry["range"], entry["statistics"]
        read = {
            "range": None if greys is None else RangeSettings.from_dict(greys),
            "statistics": None if moments is None else ChannelStatistics.from_dict(moments),
        }
        yield ModalityInput(name, **{**entry, **read})  # type: ignore[arg-type]
