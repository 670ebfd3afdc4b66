"""The configuration of a training run, from YAML or the command line; unknown keys are errors."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from aligned_vq.calibration.codec import CodecPlan
from aligned_vq.errors import ConfigError
from aligned_vq.llava.tower_config import TowerConfig
from aligned_vq.quantizer.aligned import GradientEstimator
from aligned_vq.types import LinkKind, OperatingPoint, SplitPoint

LoraTarget = Literal["suffix", "projector", "language_model"]


@dataclass(frozen=True)
class PointConfig:
    """One operating point to train for.

    Args:
        stages: the residual stages it uses, in order.
        mean_bytes: target of the mean payload body, met by leaving out stages of some tokens; None:
            every stage covers every token.
        max_bytes: hard limit of one payload body.
        share: of the training steps, relative to the other points' shares.
    """

    stages: tuple[int, ...]
    mean_bytes: float | None = None
    max_bytes: int | None = None
    share: float = 1.0


@dataclass(frozen=True)
class CodecConfig:
    """Geometry of the codec.

    Args:
        split: the cut: pre, ln1@0, ln2@3, ...
        link: source of the residual stream in the cloud.
        codebook_sizes: entries of each residual stage.
        codebook_dim: latent width d.
        num_groups: codebooks per stage, each over its share of the latent dimensions.
        points: operating points by name, the default first; empty: every stage for every token.
        stage_shares: share of the tokens on which each stage is calibrated; by default 1.
        identity: no codebook, lossless: the baseline.
        refiner_blocks: transformer blocks that correct decoded latents in the cloud; 0: none.
        refiner_width: hidden width of these blocks.
    """

    split: str = "ln1@1"
    link: LinkKind = "learned"
    codebook_sizes: tuple[int, ...] = (4096,)
    codebook_dim: int = 32
    num_groups: int = 1
    points: dict[str, PointConfig] = field(default_factory=dict)
    stage_shares: tuple[float, ...] = ()
    identity: bool = False
    refiner_blocks: int = 0
    refiner_width: int = 128

    def plan(self) -> CodecPlan:
        """The plan of this codec; ConfigError where there can be none."""
        for name, point in self.points.items():
            if not point.stages or max(point.stages) >= len(self.codebook_sizes):
                raise ConfigError(
                    f"operating point {name!r} must use stages 0 to {len(self.codebook_sizes) - 1},"
                    f" got {list(point.stages)}"
                )
            if point.mean_bytes is not None and point.mean_bytes <= 0:
                raise ConfigError(
                    f"mean_bytes of {name!r} must be positive, got {point.mean_bytes}"
                )
            if not point.share > 0:
                raise ConfigError(f"share of {name!r} must be positive, got {point.share}")
        points = tuple(
            # Rate weights are fitted in calibration and after training.
            OperatingPoint(name, tuple(point.stages), 0.0, point.max_bytes)
            for name, point in self.points.items()
        )
        sizes = () if self.identity else self.codebook_sizes
        return CodecPlan(
            SplitPoint.parse(self.split),
            self.link,
            sizes,
            self.codebook_dim,
            self.num_groups,
            self.refiner_blocks,
            self.refiner_width,
            () if self.identity else points,
            self.stage_shares,
            self.identity,
        )


@dataclass(frozen=True)
class DataConfig:
    """The training data; see `open_source` for its kinds.

    Args:
        train: such as reference:6000, llava:/data/mix665k.json, vqav2:/data, images:/data.
        calibration_images: number of images of the same source on which the codec is calibrated.
        pairs_per_image: limit of question/answer pairs of one image in a step.
        workers: processes that make batches ahead of their step; 0: none.
    """

    train: str = "reference:6000"
    calibration_images: int = 400
    pairs_per_image: int = 8
    workers: int = 0


@dataclass(frozen=True)
class StageConfig:
    """Length, learning rates and loss weights of a stage with gradients; 0 steps leave it out.

    Args:
        steps: optimiser steps.
        batch_size: images of a step over all processes.
        learning_rate: of projections and link.
        codebook_learning_rate: of codebook entries, when they learn by gradient.
        refiner_learning_rate: of the refiner.
        warmup_steps: of the learning rate.
        features: weight of the features' squared error over their variance.
        residual: weight of the residual stream's, likewise.
        hidden: weight of the squared error of the projector's input, likewise.
        task: weight of the language model's loss on answers; needs data with pairs.
        commitment: weight of the latents' distance to their entries.
        diversity: weight of a term against uneven use of the first codebook.
        rate: weight of the expected code length, in bits per token, of the first codebook.
    """

    steps: int = 0
    batch_size: int = 8
    learning_rate: float = 5e-4
    codebook_learning_rate: float = 2e-3
    refiner_learning_rate: float = 1e-3
    warmup_steps: int = 20
    features: float = 0.2
    residual: float = 0.2
    hidden: float = 1.0
    task: float = 0.0
    commitment: float = 0.05
    diversity: float = 0.0
    rate: float = 0.0


@dataclass(frozen=True)
class CodebookConfig:
    """How codebooks learn.

    Args:
        update: of the entries, by gradient descent or by moving averages of their latents.
        estimator: how gradients pass the quantizer.
        decay: of the moving averages of usage, and of entries under "ema".
        revive_every: steps between revivals of dead entries; 0: never.
        revive_below: an entry with less than this share of the mean usage is dead; it is replaced
            by a latent.
        sensitivity: weight a token's error by the curvature of the losses behind the cut, estimated
            per entry of the first stage.
        rate_gain: assumed ratio of coded to estimated bytes, for the points' targets in training.
    """

    update: Literal["gradient", "ema"] = "gradient"
    estimator: GradientEstimator = "straight_through"
    decay: float = 0.99
    revive_every: int = 50
    revive_below: float = 0.03
    sensitivity: bool = True
    rate_gain: float = 0.8


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank adapters, merged into a new checkpoint at export; rank 0: none.

    Args:
        rank: of the adapters.
        alpha: scale of the adapters times the rank.
        targets: frozen parts that get adapters.
        learning_rate: of the adapters.
    """

    rank: int = 0
    alpha: int = 16
    targets: tuple[LoraTarget, ...] = ("language_model",)
    learning_rate: float = 2e-4


@dataclass(frozen=True)
class TrainConfig:
    """One run: calibrate, then align, then task.

    Args:
        checkpoint: directory or hub id of the frozen LLaVA, or 'reference'.
        revision: of a hub id.
        codec: geometry of the trained codec.
        data: for all stages.
        align: the stage without labels.
        task: the stage with the language model's loss.
        codebooks: how codebooks learn.
        lora: adapters trained beside the codec.
        precision: bf16 computes under autocast, where the processor has bfloat16 arithmetic.
        gradient_checkpointing: recompute the language model's activations to save memory.
        seed: of all random numbers.
        save_every: steps between checkpoints.
    """

    checkpoint: str = "reference"
    revision: str | None = None
    codec: CodecConfig = field(default_factory=CodecConfig)
    data: DataConfig = field(default_factory=DataConfig)
    align: StageConfig = field(default_factory=StageConfig)
    task: StageConfig = field(default_factory=lambda: StageConfig(task=1.0))
    codebooks: CodebookConfig = field(default_factory=CodebookConfig)
    lora: LoraConfig = field(default_factory=LoraConfig)
    precision: Literal["no", "bf16"] = "bf16"
    gradient_checkpointing: bool = False
    seed: int = 0
    save_every: int = 100

    def check(self, tower: TowerConfig) -> CodecPlan:
        """The plan; ConfigError where settings contradict each other or do not suit the tower."""
        plan = self.codec.plan()
        tower.check_split(plan.split)
        plan.quantizer(tower.vision.hidden_size)
        for name, stage in (("align", self.align), ("task", self.task)):
            if stage.steps < 0 or stage.batch_size < 1:
                raise ConfigError(
                    f"{name}: steps must be 0 or more and batch_size positive, got {stage.steps} "
                    f"and {stage.batch_size}"
                )
            if stage.steps and plan.identity and not (self.lora.rank and name == "task"):
                raise ConfigError(
                    f"{name}: an identity codec has nothing to learn without LoRA in the task stage"
                )
        for name, value, least in (
            ("data.calibration_images", self.data.calibration_images, 1),
            ("data.pairs_per_image", self.data.pairs_per_image, 1),
            ("data.workers", self.data.workers, 0),
            ("codebooks.revive_every", self.codebooks.revive_every, 0),
            ("lora.rank", self.lora.rank, 0),
            ("seed", self.seed, 0),
            ("save_every", self.save_every, 1),
        ):
            if value < least:
                raise ConfigError(f"{name} must be {least} or more, got {value}")
        if self.codebooks.rate_gain <= 0:
            raise ConfigError(
                f"codebooks.rate_gain must be positive, got {self.codebooks.rate_gain}"
            )
        # k-means needs at least one vector per entry.
        tokens = self.data.calibration_images * tower.vision.num_tokens
        if plan.codebook_sizes and tokens < max(plan.codebook_sizes):
            raise ConfigError(
                f"codebook of {max(plan.codebook_sizes)} entries is larger than the {tokens} "
                f"calibration vectors of {self.data.calibration_images} images: give more images"
            )
        if self.align.task and self.align.steps:
            raise ConfigError("align: the stage without labels takes no task weight; use `task`")
        if not 0 < self.codebooks.decay < 1:
            raise ConfigError(
                f"codebooks.decay must lie between 0 and 1, got {self.codebooks.decay}"
            )
        if self.lora.rank and not (self.lora.targets and self.task.steps and self.task.task):
            raise ConfigError(
                "lora: adapters learn from answers in the task stage: give targets, task.steps and "
                "task.task, or rank 0"
            )
        return plan
