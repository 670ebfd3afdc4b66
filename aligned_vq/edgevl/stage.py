"""One stage of a student's training as a task of the loop, on one process or several."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from aligned_vq.data.batches import prefetched
from aligned_vq.edgevl.objectives import BatchT, Objective
from aligned_vq.training.loop import LoopSettings, Loss, StepReport, TrainingLoop
from aligned_vq.training.stage import STEPS_PER_TENSORBOARD_RECORD, AcceleratedProcesses
from aligned_vq.training.state import load_state, restore_optimiser, save_state, trim_log

Validate = Callable[[nn.Module], dict[str, float]]
_MODEL, _BEST, _OBJECTIVE = "model.", "best.", "objective."


@dataclass
class StudentStage(Generic[BatchT]):
    """Trains a student and keeps the weights with the best validation score.

    Args:
        settings: of the loop; the name is that of the stage.
        accelerator: wraps model and optimiser.
        model: the student, trained in place; holds the selected weights after `run`.
        unwrapped_optimiser: of its parameters.
        objective: what is minimised.
        validate: scores by name; called in the main process, with the student in eval mode.
        validate_every: steps between two validations; there is one more after the last step.
        folder: of the resumable state and the log.
        seed: of dropout and the like.
        selected_by: the score by which weights are selected; higher is better.
        validates_start: whether the weights before the first step may be selected, too.
    """

    settings: LoopSettings
    accelerator: Accelerator
    model: nn.Module
    unwrapped_optimiser: torch.optim.Optimizer
    objective: Objective[BatchT]
    validate: Validate
    validate_every: int
    folder: Path
    seed: int
    selected_by: str = "mean"
    validates_start: bool = False
    optimiser: torch.optim.Optimizer = field(init=False)

    def __post_init__(self) -> None:
        self._trained, self.optimiser = self.accelerator.prepare(
            self.model, self.unwrapped_optimiser
        )
        self._best: dict[str, Tensor] = {}
        self._scores: list[dict[str, Any]] = []

    def run(self) -> list[dict[str, Any]]:
        """Train, or go on; the model then has the selected weights.

        Returns:
            The scores of every validation with their `step`.
        """
        self._trained.train()
        processes = AcceleratedProcesses(self.accelerator)
        TrainingLoop(self, self.settings, self, processes).run()
        self._load_best()
        self.model.eval()
        return self._scores

    def batches(self, first: int, end: int) -> Generator[BatchT, None, None]:
        """See `TrainingTask`."""
        return prefetched(self.objective.batch, first, end)

    def loss(self, step: int, batch: BatchT) -> Loss:
        """See `TrainingTask`."""
        # Seeded in every step, so that a resumed run draws the same numbers.
        entropy = [self.seed, step, self.accelerator.process_index]
        torch.manual_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
        return self.objective.loss(self._trained, step, batch)

    def after_step(self, report: StepReport) -> None:
        """Log the step, and validate where it is time."""
        finished = report.step + 1
        last = finished == self.settings.steps
        if not self.accelerator.is_main_process:
            return
        if finished % self.validate_every == 0 or last:
            self._validate(finished)
        with (self.folder / "losses.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": report.step} | report.metrics) + "\n")
        if finished % STEPS_PER_TENSORBOARD_RECORD == 0 or last:
            values = {f"{self.settings.name}/{k}": v for k, v in report.averages.items()}
            self.accelerator.log(values, step=report.step)

    def restore(self) -> int:
        """See `Checkpoint`."""
        saved = load_state(self.folder / "state")
        if saved is None:
            if self.validates_start and self.accelerator.is_main_process:
                self._validate(0)
            return 0
        facts, tensors = saved
        self.model.load_state_dict(_below(tensors, _MODEL))
        self._best = _below(tensors, _BEST)
        self._scores = facts["scores"]
        self.objective.restore(_below(tensors, _OBJECTIVE))
        restore_optimiser(self.unwrapped_optimiser, tensors)
        finished: int = facts["step"]
        if self.accelerator.is_main_process:
            trim_log(self.folder / "losses.jsonl", lambda line: line["step"] < finished)
        return finished

    def save(self, finished_steps: int) -> None:
        """See `Checkpoint`."""
        tensors = {_MODEL + name: value for name, value in self.model.state_dict().items()}
        tensors |= {_BEST + name: value for name, value in self._best.items()}
        tensors |= {_OBJECTIVE + k: value for k, value in self.objective.tensors().items()}
        facts = {"step": finished_steps, "scores": self._scores}
        save_state(self.folder / "state", facts, tensors, self.unwrapped_optimiser)

    def _validate(self, finished_steps: int) -> None:
        self.model.eval()
        scores = self.validate(self.model)
        self.model.train()
        before = max((one[self.selected_by] for one in self._scores), default=-np.inf)
        self._scores.append({"step": finished_steps} | scores)
        if scores[self.selected_by] > before:
            state = self.model.state_dict()
            self._best = {name: value.detach().cpu().clone() for name, value in state.items()}
        values = {f"{self.settings.name}/validation_{k}": v for k, v in scores.items()}
        self.accelerator.log(values, step=finished_steps)

    def _load_best(self) -> None:
        """Put the selected weights into the model, on every process."""
        # The main process alone has validated; the others read what it saved.
        if not self.accelerator.is_main_process:
            saved = load_state(self.folder / "state")
            self._best = _below(saved[1], _BEST) if saved else {}
        if self._best:
            self.model.load_state_dict(self._best)


def _below(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        name.removeprefix(prefix): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
