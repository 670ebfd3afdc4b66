"""Every key of the training run of a modality's prefix."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from aligned_vq.errors import ConfigError
from aligned_vq.images.depth import RangeSettings, check_range


@dataclass(frozen=True)
class ViewsConfig:
    """The pairs of images of a run.

    Args:
        train: such as reference:2400, scannet:/data/scannet, folders:/data/pairs#infrared; see
            `open_views`.
        questions: asked about every pair of files; none for the reference world.
        questions_per_image: limit of questions about one image.
        validation_share: of the scenes, held out for the choice of weights.
        validation_images: limit of images of that part.
        fixed_range: values that become the darkest and the brightest grey, metres of depth or
            stored infrared values; null: percentiles of each image. Live streams need a fixed one.
        percentiles: of an image's valid pixels, without a fixed range.
        cache_mib: limit of the teacher's outputs on disk; beyond it they are computed in every
            step.
    """

    train: str = "reference:2400"
    questions: tuple[str, ...] = ()
    questions_per_image: int = 12
    validation_share: float = 0.03
    validation_images: int = 64
    fixed_range: tuple[float, float] | None = None
    percentiles: tuple[float, float] = (1.0, 99.0)
    cache_mib: int = 1024

    def range(self) -> RangeSettings:
        """How values become greys; ConfigError if they cannot."""
        return RangeSettings(self.fixed_range, self.percentiles)


@dataclass(frozen=True)
class ModalityRunConfig:
    """A whole run.

    Args:
        modality: of the prefix; a file with this key is such a run's.
        checkpoint: directory or hub id of the frozen LLaVA, or 'reference'.
        revision: of a hub id.
        bundle: directory of the bundle made from the checkpoint, or 'reference'.
        data: the pairs.
        steps: optimiser steps.
        batch_size: pairs in a step, over all processes.
        learning_rate: peak, then a cosine.
        warmup_steps: of the learning rate.
        answers: weight of the divergence of the answers' distributions.
        hidden: weight of the hidden states' squared error over their variance.
        max_mean_bytes: mean size of a payload at the bundle's default operating point that is
            accepted without a loss; null: any.
        rate: weight of the share by which the estimated mean exceeds it.
        rate_gain: assumed ratio of coded to estimated bytes.
        validate_every: steps between two validations.
        save_every: steps between two checkpoints.
        bfloat16: compute under autocast, where the processor has bfloat16 arithmetic.
        seed: of everything that is random.

    Raises:
        ConfigError: a value is out of range.
    """

    modality: Literal["depth", "infrared"] = "depth"
    checkpoint: str = "reference"
    revision: str | None = None
    bundle: str = "reference"
    data: ViewsConfig = field(default_factory=ViewsConfig)
    steps: int = 1200
    batch_size: int = 8
    learning_rate: float = 4e-4
    warmup_steps: int = 30
    answers: float = 1.0
    hidden: float = 0.3
    max_mean_bytes: float | None = None
    rate: float = 1.0
    rate_gain: float = 0.8
    validate_every: int = 100
    save_every: int = 50
    bfloat16: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        """Check every value."""
        check_range(self.modality, self.data.range())
        for name, value, least in (
            ("steps", self.steps, 1),
            ("batch_size", self.batch_size, 1),
            ("validate_every", self.validate_every, 1),
            ("save_every", self.save_every, 1),
            ("warmup_steps", self.warmup_steps, 0),
            ("seed", self.seed, 0),
            ("answers", self.answers, 0),
            ("hidden", self.hidden, 0),
            ("rate", self.rate, 0),
            ("data.questions_per_image", self.data.questions_per_image, 1),
            ("data.validation_images", self.data.validation_images, 1),
            ("data.cache_mib", self.data.cache_mib, 0),
        ):
            if not value >= least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")
        for name, value in (
            ("learning_rate", self.learning_rate),
            ("rate_gain", self.rate_gain),
            ("max_mean_bytes", 1.0 if self.max_mean_bytes is None else self.max_mean_bytes),
        ):
            if not 0 < value < math.inf:
                raise ConfigError(f"{name} must be positive and finite, got {value}")
        if not all(question.strip() for question in self.data.questions):
            raise ConfigError("data.questions must have text, got an empty one; remove it")
        if not (self.answers or self.hidden):
            raise ConfigError("answers and hidden must not both be 0: nothing would be learned")
