"""One stage of the reference recipe: a module trained by AdamW, with its state in a file."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import torch
from torch import nn

from aligned_vq.data.batches import prefetched
from aligned_vq.training.loop import LoopSettings, Loss, StepReport, TrainingLoop
from aligned_vq.training.state import ModuleFile

BatchT = TypeVar("BatchT")


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns."""

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    bfloat16: bool = False
    """Autocast the forward pass where there is bfloat16 arithmetic: twice the speed."""
    weight_decay: float = 0.02
    save_every_steps: int = 100


@dataclass(frozen=True)
class _StageTask(Generic[BatchT]):
    optimiser: torch.optim.Optimizer
    batch_of: Callable[[int], BatchT]
    loss_of: Callable[[BatchT], Loss]

    def batches(self, first: int, end: int) -> Generator[BatchT, None, None]:
        return prefetched(self.batch_of, first, end)

    def loss(self, step: int, batch: BatchT) -> Loss:
        return self.loss_of(batch)

    def after_step(self, report: StepReport) -> None:
        pass


def train_stage(
    stage: Stage,
    module: nn.Module,
    batch_of: Callable[[int], BatchT],
    loss_of: Callable[[BatchT], Loss],
    workdir: Path,
) -> None:
    """Train a module in place up to the stage's last step; an interrupted stage goes on.

    Args:
        stage: how long and how fast.
        module: its parameters that require gradients are trained; the state is kept in
            `workdir/<stage>.pt`.
        batch_of: the batch of a step, called in a thread ahead of its step. It must depend on the
            step alone, so that a resumed stage sees the batches of an uninterrupted one.
        loss_of: loss and metrics of a batch.
        workdir: an existing folder.

    Raises:
        ConfigError: the state in `workdir` cannot be read.
        TrainingError: a loss or gradient is not finite.
    """
    trained = [p for p in module.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(
        trained, stage.learning_rate, betas=(0.9, 0.98), weight_decay=stage.weight_decay
    )
    settings = LoopSettings(
        stage.name,
        stage.steps,
        stage.warmup_steps,
        save_every_steps=stage.save_every_steps,
        bfloat16=stage.bfloat16,
    )
    checkpoint = ModuleFile(workdir / f"{stage.name}.pt", module, optimiser)
    TrainingLoop(_StageTask(optimiser, batch_of, loss_of), settings, checkpoint).run()
