"""The optimisation loop of every model that this project trains.

A `TrainingTask` says what is trained: its optimiser, the batches, the loss of a batch, and what
happens after a step. `TrainingLoop` does the rest: learning rate, gradient clipping, progress bar,
checkpoints, and stopping on a signal. A run that goes on from a checkpoint ends with the weights
of an uninterrupted one, to the bit, where a task's batches and random numbers depend on the step
alone.

The loop knows nothing of accelerate: a task trained by several processes passes a `Processes`.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from types import FrameType
from typing import Generic, Protocol, TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aligned_vq.errors import TrainingError
from aligned_vq.precision import autocast

BatchT = TypeVar("BatchT")
Loss = tuple[Tensor, dict[str, float]]
"""The loss of a batch, a scalar with a gradient, and further metrics to log."""

SMOOTHING = 0.95
"""Decay per step of the averages in a `StepReport`."""
REPEATED_SIGNAL_SECONDS = 2.0
"""Signals within this time of the first count as one: a launcher of several processes forwards the
signal that the terminal has already sent to each of them."""


@dataclass(frozen=True)
class LoopSettings:
    """How long one loop runs, and how it steps.

    Args:
        name: shown on the progress bar and in errors.
        steps: optimiser steps in total, those before a resumption included.
        warmup_steps: of the learning rate, see `warm_cosine`.
        max_gradient_norm: gradients are scaled down to this norm; None: not clipped.
        save_every_steps: steps between checkpoints; there is one more after the last step.
        bfloat16: compute the loss under autocast, where the processor has bfloat16 arithmetic.
        leave_bar: keep the progress bar on the terminal at the end.
    """

    name: str
    steps: int
    warmup_steps: int = 0
    max_gradient_norm: float | None = 1.0
    save_every_steps: int = 100
    bfloat16: bool = False
    leave_bar: bool = True


@dataclass(frozen=True)
class StepReport:
    """One finished step.

    Args:
        step: its number, from 0.
        metrics: "loss", the mean over all processes, and the task's metrics of this process.
        averages: exponential moving averages of the metrics, by `SMOOTHING`, since the loop was
            started or resumed. They begin at a metric's first value; a value that is not finite is
            left out.
        steps_per_second: since the loop was started or resumed.
    """

    step: int
    metrics: dict[str, float]
    averages: dict[str, float]
    steps_per_second: float


class TrainingTask(Protocol[BatchT]):
    """What a loop trains."""

    @property
    def optimiser(self) -> torch.optim.Optimizer:
        """Of everything that is trained. Its learning rates are the peaks of the schedule."""

    def batches(self, first: int, end: int) -> Generator[BatchT, None, None]:
        """The batches of steps `first` to `end`, exclusive; closed when the loop ends early."""

    def loss(self, step: int, batch: BatchT) -> Loss:
        """Loss and metrics of a batch."""

    def after_step(self, report: StepReport) -> None:
        """Called after every optimiser step, before a checkpoint of it is written."""


class Checkpoint(Protocol):
    """Where the state of a task is kept between two processes."""

    def restore(self) -> int:
        """Put the saved state back; returns the number of finished steps, 0 without a state."""

    def save(self, finished_steps: int) -> None:
        """Replace the saved state. The one before survives a failure."""


class Processes(Protocol):
    """The processes that train one model together, seen from one of them."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes checkpoints and shows the progress bar."""

    def mean(self, value: Tensor) -> float:
        """Mean of a scalar over all processes."""

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in at least one process."""

    def backward(self, loss: Tensor) -> None:
        """Compute gradients, averaged over all processes."""

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """Scale gradients down to a norm of at most `max_norm`; returns the norm before."""

    def wait(self) -> None:
        """Return once every process has come here."""


class SingleProcess:
    """Training in this process alone."""

    is_main = True

    def mean(self, value: Tensor) -> float:
        """The value itself."""
        return float(value)

    def any(self, flag: bool) -> bool:
        """The flag itself."""
        return flag

    def backward(self, loss: Tensor) -> None:
        """Compute gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def clip_gradients(self, parameters: Sequence[nn.Parameter], max_norm: float) -> Tensor:
        """See `Processes`."""
        return nn.utils.clip_grad_norm_(parameters, max_norm)

    def wait(self) -> None:
        """Nobody else to wait for."""


class TrainingLoop(Generic[BatchT]):
    """Trains a task up to a number of steps.

    Args:
        task: what is trained.
        settings: how long, and how.
        checkpoint: where the state is kept; None: the loop cannot be resumed.
        processes: those that train the task together; by default this one alone.
    """

    def __init__(
        self,
        task: TrainingTask[BatchT],
        settings: LoopSettings,
        checkpoint: Checkpoint | None = None,
        processes: Processes | None = None,
    ) -> None:
        self._task = task
        self._settings = settings
        self._checkpoint = checkpoint
        self._processes: Processes = processes or SingleProcess()
        groups = task.optimiser.param_groups
        self._peak_rates: list[float] = [group["lr"] for group in groups]
        self._parameters: list[nn.Parameter] = [p for group in groups for p in group["params"]]
        self._averages: dict[str, float] = {}

    def run(self) -> None:
        """Take the steps that the checkpoint has not; none if it has them all.

        Raises:
            TrainingError: a loss or gradient is not finite. That step changed nothing, and the last
                checkpoint is kept.
            KeyboardInterrupt: a process got SIGINT or SIGTERM. The state was saved after a whole
                step.
        """
        steps, is_main = self._settings.steps, self._processes.is_main
        first = 0 if self._checkpoint is None else self._checkpoint.restore()
        bar = tqdm(
            total=steps,
            initial=first,
            desc=self._settings.name,
            unit="step",
            disable=not is_main,
            leave=self._settings.leave_bar,
        )
        started = time.monotonic()
        with (
            bar,
            _stop_signals() as stop_requested,
            # Closing ends the worker processes of a loader if a step raises.
            closing(self._task.batches(first, steps)) as batches,
        ):
            for step, batch in zip(range(first, steps), batches, strict=True):
                metrics = self._step(step, batch)
                speed = (step + 1 - first) / (time.monotonic() - started)
                self._task.after_step(StepReport(step, metrics, dict(self._averages), speed))
                shown = {name: f"{value:.3g}" for name, value in self._averages.items()}
                bar.set_postfix(shown, refresh=False)
                bar.update()
                # All processes stop after the same step, even if only one received the signal.
                self._end_step(step + 1, self._processes.any(stop_requested()))

    def _step(self, step: int, batch: BatchT) -> dict[str, float]:
        settings, optimiser = self._settings, self._task.optimiser
        share = warm_cosine(step, settings.steps, settings.warmup_steps)
        for group, rate in zip(optimiser.param_groups, self._peak_rates, strict=True):
            group["lr"] = rate * share
        # With None instead of zeros, the optimiser skips parameters that this step does not use.
        optimiser.zero_grad(set_to_none=True)
        with autocast(self._parameters[0].device.type, settings.bfloat16):
            loss, metrics = self._task.loss(step, batch)
        mean = self._processes.mean(loss.detach())
        # The mean over all processes, so that all of them raise.
        self._require_finite(step, "loss", mean)
        self._processes.backward(loss)
        if settings.max_gradient_norm is not None:
            norm = self._processes.clip_gradients(self._parameters, settings.max_gradient_norm)
            self._require_finite(step, "gradient norm", float(norm))
        optimiser.step()
        metrics = {"loss": mean, **metrics}
        for name, value in metrics.items():
            if math.isfinite(value):
                before = self._averages.get(name, value)
                # `before` is the value itself at a metric's first step.
                self._averages[name] = SMOOTHING * before + (1 - SMOOTHING) * value
        return metrics

    def _require_finite(self, step: int, name: str, value: float) -> None:
        if not math.isfinite(value):
            raise TrainingError(
                f"{self._settings.name}: expected a finite {name} at step {step}, got {value}; the "
                "checkpoint of an earlier step, if there is one, is kept: lower the learning rate "
                "or look at the data"
            )

    def _end_step(self, finished_steps: int, stopping: bool) -> None:
        last = finished_steps == self._settings.steps
        if stopping or last or finished_steps % self._settings.save_every_steps == 0:
            if self._checkpoint is not None and self._processes.is_main:
                self._checkpoint.save(finished_steps)
            # No process may go on or exit before the state is complete.
            self._processes.wait()
        if stopping:
            raise KeyboardInterrupt


def warm_cosine(step: int, steps: int, warmup_steps: int, floor: float = 0.02) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then a cosine down to `floor`."""
    if step < warmup_steps:
        return (step + 1) / warmup_steps
    progress = (step - warmup_steps) / max(1, steps - warmup_steps)  # no division by 0
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT or SIGTERM came; one sent again later raises at once."""
    times: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        times.append(time.monotonic())
        if times[-1] - times[0] > REPEATED_SIGNAL_SECONDS:
            raise KeyboardInterrupt

    try:
        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # signals can be handled in the main thread only
        before = {}
    try:
        yield lambda: bool(times)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
