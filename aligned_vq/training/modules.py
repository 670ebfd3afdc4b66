"""What a run trains: the codec inside a frozen LLaVA, its codebook statistics and rate weights."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from aligned_vq.calibration.codec import CodecPlan, blank_codec
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.loading import load_prefix, load_suffix
from aligned_vq.training.codebooks import CodebookUpdater
from aligned_vq.training.config import CodebookConfig, PointConfig, StageConfig, TrainConfig
from aligned_vq.training.lora import adapter_parameters, add_adapters
from aligned_vq.training.model import AnswerModel, SplitModel
from aligned_vq.training.rate_control import RateControl


@dataclass
class TrainedModules:
    """Everything whose state changes in training."""

    model: SplitModel
    updater: CodebookUpdater | None
    """None for the identity quantizer."""
    control: RateControl

    def tensors(self) -> dict[str, Tensor]:
        """Trained tensors and statistics by name, not copied; without the frozen model."""
        named = {f"link.{k}": v for k, v in self.model.link.state_dict().items()}
        if self.model.quantizer is not None and self.updater is not None:
            named |= {f"quantizer.{k}": v for k, v in self.model.quantizer.state_dict().items()}
            named |= {f"updater.{k}": v for k, v in self.updater.state_dict().items()}
        named |= {f"control.{k}": v for k, v in self.control.state_dict().items()}
        named |= {f"lora.{k}": p.data for k, p in adapter_parameters(self.model).items()}
        return named

    @torch.no_grad()
    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Copy saved values into `tensors()`; ConfigError where some are missing."""
        targets = self.tensors()
        saved = {_current_name(name): tensor for name, tensor in tensors.items()}
        missing = sorted(targets.keys() - saved.keys())
        if missing:
            raise ConfigError(
                f"expected {', '.join(missing[:3])} in the run's state, got a state without "
                f"{len(missing)} of {len(targets)} tensors; remove it to start over"
            )
        for name, target in targets.items():
            target.copy_(saved[name])


def _current_name(name: str) -> str:
    """The name in `tensors()` of a saved tensor, whose state may be older than a renaming."""
    if name.startswith("keeper."):
        name = f"updater.{name.removeprefix('keeper.')}"
    return f"{name.removesuffix('.felt')}.sensitivity" if name.endswith(".felt") else name


def load_modules(
    config: TrainConfig, checkpoint: LlavaCheckpoint, plan: CodecPlan, accelerator: Accelerator
) -> TrainedModules:
    """The frozen model on the accelerator's device, around a codec that is not calibrated yet."""
    # First, because the refiner and the adapters start from random numbers.
    torch.manual_seed(config.seed)
    device = accelerator.device
    # The frozen weights then take half the memory.
    half = device.type == "cuda" and config.precision == "bf16"
    dtype = torch.bfloat16 if half else torch.float32
    quantizer, link, _ = blank_codec(checkpoint, plan)
    answering = None
    if config.task.steps and config.task.task:
        answering = load_answer_model(checkpoint, dtype, config.gradient_checkpointing)
    model = SplitModel(
        load_prefix(checkpoint, plan.split, dtype),
        quantizer,
        link,
        load_suffix(checkpoint, plan.split, dtype),
        answering,
        config.codebooks,
    ).to(device)
    if config.lora.rank and answering is not None:
        add_adapters(model, config.lora)
    updater = None
    if quantizer is not None:
        updater = new_updater(quantizer, config.codebooks, accelerator)
    return TrainedModules(model, updater, _rate_control(config, plan))


def load_answer_model(
    checkpoint: LlavaCheckpoint, dtype: torch.dtype, gradient_checkpointing: bool = False
) -> AnswerModel:
    """The frozen projector and language model of a checkpoint, without its vision tower."""
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    directory = checkpoint.directory()
    llava: Any = LlavaForConditionalGeneration.from_pretrained(directory, dtype=dtype)
    # The prefix and the suffix replace it.
    llava.model.vision_tower = None
    llava.eval().requires_grad_(False)
    if gradient_checkpointing:
        with warnings.catch_warnings():
            # Every transformers 5 knows this name; the latest releases warn of it.
            warnings.filterwarnings("ignore", ".*checkpointing_enable` is", FutureWarning)
            llava.gradient_checkpointing_enable({"use_reentrant": False})
        # transformers checkpoints in training mode only; a LLaVA has no dropout.
        llava.train()
    processor = AutoProcessor.from_pretrained(directory, use_fast=False)
    return AnswerModel(llava, Packer(processor, checkpoint.tower.num_selected_tokens))


def new_updater(
    quantizer: AlignedVQ, config: CodebookConfig, accelerator: Accelerator
) -> CodebookUpdater:
    """An updater whose statistics start from the quantizer's, over all processes."""
    updater = CodebookUpdater(
        quantizer,
        config,
        total=lambda tensor: accelerator.reduce(tensor, "sum"),
        gather=accelerator.gather,
    )
    return updater.to(accelerator.device)


def _rate_control(config: TrainConfig, plan: CodecPlan) -> RateControl:
    points = config.codec.points
    if not points and not plan.identity:  # the plan's operating points, without rate targets
        points = {point.name: PointConfig(point.stages) for point in plan.operating_points}
    # Targets are coded bytes, but training estimates bits.
    targets_bits = {
        name: 8 * point.mean_bytes / config.codebooks.rate_gain
        for name, point in points.items()
        if point.mean_bytes is not None
    }
    return RateControl(points, targets_bits)


def build_optimiser(
    model: SplitModel, config: TrainConfig, stage: StageConfig
) -> torch.optim.Optimizer:
    """AdamW without weight decay over projections and link, codebook entries, refiner and adapters,
    each group at its rate."""
    entries: list[nn.Parameter] = []
    refiner: list[nn.Parameter] = []
    codec = list(model.link.parameters())
    if model.quantizer is not None:
        for name, parameter in model.quantizer.named_parameters():
            if name.endswith("entries"):
                entries.append(parameter)
            elif name.startswith("refiner."):
                refiner.append(parameter)
            else:
                codec.append(parameter)
    if config.codebooks.update == "ema":  # moving averages set them
        entries = []
    groups = [
        {"params": codec, "lr": stage.learning_rate},
        {"params": entries, "lr": stage.codebook_learning_rate},
        {"params": refiner, "lr": stage.refiner_learning_rate},
    ]
    # Adapters learn from answers only.
    if stage.task:
        adapters = list(adapter_parameters(model).values())
        groups.append({"params": adapters, "lr": config.lora.learning_rate})
    used = [group for group in groups if group["params"]]
    return torch.optim.AdamW(used, betas=(0.9, 0.98), weight_decay=0.0)
