"""Every key of a student's training run, with the values of the reference recipe as defaults."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from aligned_vq.dual_encoder.prompts import DEFAULT_TEMPLATE, check_template
from aligned_vq.errors import ConfigError
from aligned_vq.images.depth import RangeSettings


@dataclass(frozen=True)
class PairsConfig:
    """The paired images of a run.

    Args:
        train: such as scannet:/data/scannet, folders:/data/pairs.
        validation_share: of the scenes, held out for the choice of weights.
        side_px: images are kept with this side; crops are taken from them.
        labels: a file with the labels by which images are curated, one per line; `rooms`: those of
            the reference rooms.
        template: the sentence for a label.
        keep: share of the images to keep, those of which the teacher is most certain.
        smallest_crop: share of the image's area.
        fixed_range: values that become the darkest and the brightest grey, metres of depth or
            stored infrared values; null: percentiles of each image. Live streams need a fixed one.
        percentiles: of an image's valid pixels, without a fixed range.
    """

    train: str = ""
    validation_share: float = 0.1
    side_px: int = 144
    labels: str = "rooms"
    template: str = DEFAULT_TEMPLATE
    keep: float = 0.25
    smallest_crop: float = 0.55
    fixed_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)

    def __post_init__(self) -> None:
        """Check every value."""
        check_template(self.template)
        for name in ("validation_share", "keep", "smallest_crop"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(
                    f"{name} must be a share above 0 and at most 1, got {getattr(self, name)}"
                )
        _check_least(self, 16, "side_px")
        self.range()
        if self.validation_share > 0.9:
            raise ConfigError(
                f"validation_share must leave images to train on, got {self.validation_share}"
            )

    def range(self) -> RangeSettings:
        """How values of the other modality become greys; ConfigError if they cannot."""
        return RangeSettings(self.fixed_range, self.percentiles)


@dataclass(frozen=True)
class DistillConfig:
    """Stage 1: the student imitates the teacher on both modalities.

    Args:
        steps: optimiser steps; 0 leaves the stage out.
        batch_size: pairs in a step, over all processes.
        learning_rate: peak, then a cosine.
        warmup_steps: of the learning rate.
        weight_decay: of AdamW.
        rgb, other: weights of the two modalities' losses; 0 leaves one out.
        tokens: weight of the teacher's tokens beside its embedding, see `Imitator`; 0: published.
        bfloat16: compute under autocast, where the processor has bfloat16 arithmetic.
    """

    steps: int = 2000
    batch_size: int = 48
    learning_rate: float = 1e-3
    warmup_steps: int = 100
    weight_decay: float = 0.02
    rgb: float = 1.0
    other: float = 1.0
    tokens: float = 0.0
    bfloat16: bool = True

    def __post_init__(self) -> None:
        """Check every value."""
        _check_least(self, 0, "steps", "warmup_steps", "weight_decay", "rgb", "other", "tokens")
        _check_least(self, 1, "batch_size")
        _check_positive(self, "learning_rate")
        if not self.rgb and not self.other:
            raise ConfigError("rgb and other must not both be 0: nothing would be learned")


@dataclass(frozen=True)
class ContrastConfig:
    """Stage 2: quantisation-aware training.

    Args:
        steps: optimiser steps; 0 leaves the stage out: quantised after training.
        anchors: triplet anchors in a step, over all processes.
        margin: m of the triplet loss.
        negatives: J, the most negatives of an anchor.
        mine_every: steps between two minings.
        learning_rate: peak, then a cosine.
        warmup_steps: of the learning rate.
        weight_decay: of AdamW.
        triplets: weight of the contrastive loss; 0: quantisation-aware training alone.
        distill: weight of stage 1's loss beside it.
        calibration_pairs: number of training pairs that fix the activation ranges.
    """

    steps: int = 300
    anchors: int = 12
    margin: float = 0.3
    negatives: int = 3
    mine_every: int = 100
    learning_rate: float = 1e-4
    warmup_steps: int = 10
    weight_decay: float = 0.02
    triplets: float = 1.0
    distill: float = 1.0
    calibration_pairs: int = 128

    def __post_init__(self) -> None:
        """Check every value."""
        _check_least(
            self, 0, "steps", "margin", "warmup_steps", "weight_decay", "triplets", "distill"
        )
        _check_least(self, 1, "anchors", "negatives", "mine_every", "calibration_pairs")
        _check_positive(self, "learning_rate")


@dataclass(frozen=True)
class StudentRunConfig:
    """A whole run.

    Args:
        teacher: directory or hub id of a dual encoder, or `reference`.
        student: a preset of students, such as reference-vit, published-swin; or teacher-clip, which
            starts as the teacher's vision tower.
        pairs: the data.
        distill: stage 1.
        contrast: stage 2.
        validate_every: steps between two validations in either stage.
        seed: of everything that is random.
    """

    teacher: str = "reference"
    student: str = "reference-vit"
    pairs: PairsConfig = field(default_factory=PairsConfig)
    distill: DistillConfig = field(default_factory=DistillConfig)
    contrast: ContrastConfig = field(default_factory=ContrastConfig)
    validate_every: int = 200
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        _check_least(self, 1, "validate_every")
        _check_least(self, 0, "seed")


def _check_least(config: object, least: float, *names: str) -> None:
    for name in names:
        value = getattr(config, name)
        if not value >= least:
            raise ConfigError(f"{name} must be {least} or more, got {value}")


def _check_positive(config: object, *names: str) -> None:
    for name in names:
        if not 0 < getattr(config, name) < math.inf:
            raise ConfigError(f"{name} must be positive and finite, got {getattr(config, name)}")
