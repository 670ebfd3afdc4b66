"""One stage of a codec's training as a task of the loop, on one process or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from aligned_vq.data.batches import Batch, Steps
from aligned_vq.errors import ConfigError
from aligned_vq.training.codebooks import LatentSensitivity
from aligned_vq.training.config import StageConfig, TrainConfig
from aligned_vq.training.loop import LoopSettings, Loss, StepReport
from aligned_vq.training.model import BitSpending, StepOutput
from aligned_vq.training.modules import TrainedModules
from aligned_vq.training.state import restore_optimiser

STEPS_PER_TENSORBOARD_RECORD = 10


class AcceleratedProcesses:
    """The processes of an accelerator; see `Processes`."""

    def __init__(self, accelerator: Accelerator) -> None:
        self._accelerator = accelerator
        self.is_main: bool = accelerator.is_main_process

    def mean(self, value: Tensor) -> float:
        """See `Processes`."""
        return float(self._accelerator.gather(value.reshape(1)).mean())

    def any(self, flag: bool) -> bool:
        """See `Processes`."""
        flags = torch.tensor([float(flag)], device=self._accelerator.device)
        return bool(self._accelerator.gather(flags).any())

    def backward(self, loss: Tensor) -> None:
        """See `Processes`."""
        self._accelerator.backward(loss)

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """See `Processes`."""
        norm: Tensor = self._accelerator.clip_grad_norm_(parameters, max_norm)
        return norm

    def wait(self) -> None:
        """See `Processes`."""
        self._accelerator.wait_for_everyone()


def check_shared(name: str, images: int, processes: int) -> None:
    """ConfigError unless every process has as many images of a step as the others."""
    if images % processes:
        raise ConfigError(f"{name} must be a multiple of the {processes} processes, got {images}")


class _Step(NamedTuple):
    """What `CodecTask.after_step` needs of a step's forward pass."""

    chain: tuple[int, ...]
    """Residual stages in use."""
    points: list[int]
    """Operating point of each image of the whole step."""
    positions: Tensor
    """Of this process's images in the whole step."""
    output: StepOutput
    rng: np.random.Generator


@dataclass
class CodecTask:
    """Trains a codec inside the frozen model.

    Args:
        name: of the stage.
        accelerator: wraps model and optimiser here, and gathers statistics over processes.
        modules: what is trained.
        config: of the run.
        stage: of this stage.
        steps: its batches.
        unwrapped_optimiser: of its parameters, see `build_optimiser`.
        log: file to which the main process appends the losses of every step as a line of JSON.
    """

    name: str
    accelerator: Accelerator
    modules: TrainedModules
    config: TrainConfig
    stage: StageConfig
    steps: Steps
    unwrapped_optimiser: torch.optim.Optimizer
    log: Path
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self._model, self.optimiser = self.accelerator.prepare(
            self.modules.model, self.unwrapped_optimiser
        )
        for group in self.optimiser.param_groups:
            for parameter in group["params"]:
                parameter.requires_grad_(True)
        self._step: _Step | None = None

    def settings(self) -> LoopSettings:
        """Of the loop."""
        return LoopSettings(
            self.name,
            self.stage.steps,
            self.stage.warmup_steps,
            save_every_steps=self.config.save_every,
        )

    def batches(self, first: int, end: int) -> Generator[Batch, None, None]:
        """See `TrainingTask`."""
        yield from self.steps.loader(first, end, self.config.data.workers)

    def loss(self, step: int, batch: Batch) -> Loss:
        """The loss of this process's share of a step, with every term and the estimated bits."""
        seed, number = self.config.seed, self.steps.stage
        # Seeded in every step, so that a resumed run draws the same numbers.
        torch.manual_seed(_seed_of(seed, number, step, self.accelerator.process_index))
        # Without the process index: points and rate weights are drawn for the whole step.
        rng = np.random.default_rng([seed, number, step, 1])
        chain, points, weights = self.modules.control.draw(rng, self.stage.batch_size)
        device = self.accelerator.device
        if weights is not None:
            weights = weights[batch.picked].to(device)  # this process's images
        spending = BitSpending(chain, weights)
        output: StepOutput = self._model(batch.pixels.to(device), batch.text, spending, self.stage)
        self._step = _Step(chain, points, batch.picked, output, rng)
        metrics = {name: term.item() for name, term in output.terms.items()}
        return output.loss, metrics | {"bits": output.rate_bits.mean().item()}

    def after_step(self, report: StepReport) -> None:
        """Update codebooks and rate weights, the same way on every process, and log the step."""
        step = self._step
        assert step is not None
        updater, control = self.modules.updater, self.modules.control
        if updater is not None:
            generator = torch.Generator().manual_seed(int(step.rng.integers(1 << 62)))
            sensitivity = self._sensitivity(step)
            revived = updater.update(
                step.output.choices, step.chain, sensitivity, report.step, generator
            )
            self._clear_moments(revived)
            # Points in the order in which the rates are gathered.
            device, gather = self.accelerator.device, self.accelerator.gather
            order = gather(step.positions.to(device)).tolist()
            rates = gather(step.output.rate_bits.detach().contiguous()).tolist()
            control.observe([step.points[position] for position in order], rates)
        if self.accelerator.is_main_process:
            line = {"stage": self.name, "step": report.step, "chain": list(step.chain)}
            with self.log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(line | report.metrics) + "\n")
        finished_steps = report.step + 1
        last = finished_steps == self.stage.steps
        if finished_steps % STEPS_PER_TENSORBOARD_RECORD == 0 or last:
            figures = {} if updater is None else updater.figures()
            speed = {"images_per_second": report.steps_per_second * self.stage.batch_size}
            values = report.averages | figures | speed
            self.accelerator.log(
                {f"{self.name}/{name}": value for name, value in values.items()}, step=report.step
            )

    def _sensitivity(self, step: _Step) -> LatentSensitivity | None:
        latents_hat = self.modules.model.latents_hat
        if latents_hat is None or latents_hat.grad is None:
            return None
        # The inputs of the first stage are the latents.
        error = latents_hat.detach() - step.output.choices[step.chain[0]].inputs
        return LatentSensitivity(latents_hat.grad, error)

    def _clear_moments(self, revived: Sequence[tuple[nn.Parameter, Tensor]]) -> None:
        """The optimiser's moments of a revived entry are those of the entry that it replaced."""
        for entries, rows in revived:
            for moment in self.unwrapped_optimiser.state.get(entries, {}).values():
                # Moments have the shape of the entries; the step count is a scalar.
                if moment.shape == entries.shape:
                    moment[rows] = 0


@dataclass(frozen=True)
class StageCheckpoint:
    """The part of a run's state that one stage reads and writes; see `Checkpoint`.

    Args:
        finished_steps: of the stage in the run's state.
        tensors: of that state; the modules hold their values already.
        optimiser: of the stage.
        write: replaces the run's state, given the number of finished steps and the optimiser.
    """

    finished_steps: int
    tensors: Mapping[str, Tensor]
    optimiser: torch.optim.Optimizer
    write: Callable[[int, torch.optim.Optimizer], None]

    def restore(self) -> int:
        """See `Checkpoint`."""
        if self.finished_steps:
            restore_optimiser(self.optimiser, self.tensors)
        return self.finished_steps

    def save(self, finished_steps: int) -> None:
        """See `Checkpoint`."""
        self.write(finished_steps, self.optimiser)


def _seed_of(*numbers: int) -> int:
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)
