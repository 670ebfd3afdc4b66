"""The optimisation loop on a linear model: steps, hook, metrics, checkpoints and signals."""

from __future__ import annotations

import math
import os
import signal
from collections.abc import Callable, Generator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from aligned_vq.data.batches import prefetched
from aligned_vq.errors import TrainingError
from aligned_vq.training.loop import (
    SMOOTHING,
    LoopSettings,
    Loss,
    SingleProcess,
    StepReport,
    TrainingLoop,
    warm_cosine,
)
from aligned_vq.training.state import ModuleFile

SETTINGS = LoopSettings("line", 12, warmup_steps=2, save_every_steps=4)
Hook = Callable[["LineTask", StepReport], None]


class LineTask:
    """Learns the sum of its inputs; batches depend on the step alone."""

    def __init__(
        self,
        *,
        hook: Hook | None = None,
        batch_of: Callable[[int], Tensor] | None = None,
        metrics: Callable[[int], dict[str, float]] = lambda step: {},
        scale: Callable[[int], float] = lambda step: 1.0,
    ) -> None:
        torch.manual_seed(0)
        self.module = nn.Linear(4, 1)
        self.optimiser: torch.optim.Optimizer = torch.optim.AdamW(self.module.parameters(), 1e-2)
        self.reports: list[StepReport] = []
        self.taken: list[int] = []
        self._hook = hook
        self._batch_of = batch_of or line_batch
        self._metrics = metrics
        self._scale = scale

    def batches(self, first: int, end: int) -> Generator[Tensor, None, None]:
        return prefetched(self._batch_of, first, end)

    def loss(self, step: int, batch: Tensor) -> Loss:
        self.taken.append(step)
        error = self.module(batch) - batch.sum(1, keepdim=True)
        return error.square().mean() * self._scale(step), self._metrics(step)

    def after_step(self, report: StepReport) -> None:
        self.reports.append(report)
        if self._hook is not None:
            self._hook(self, report)


def line_batch(step: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def run(task: LineTask, path: Path, settings: LoopSettings = SETTINGS) -> dict[str, Tensor]:
    checkpoint = ModuleFile(path, task.module, task.optimiser)
    TrainingLoop(task, settings, checkpoint).run()
    return task.module.state_dict()


def equal(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def saved_step(path: Path) -> int:
    step: int = torch.load(path, weights_only=True)["step"]
    return step


class Fault(Exception):
    pass


def failing_at(step: int) -> Callable[[int], Tensor]:
    def batch_of(number: int) -> Tensor:
        if number == step:
            raise Fault
        return line_batch(number)

    return batch_of


def test_a_resumed_run_ends_with_the_bits_of_an_uninterrupted_one(tmp_path: Path) -> None:
    whole = run(LineTask(), tmp_path / "whole.pt")
    path = tmp_path / "parts.pt"
    with pytest.raises(Fault):
        run(LineTask(batch_of=failing_at(9)), path)
    assert saved_step(path) == 8
    resumed = LineTask()
    assert equal(run(resumed, path), whole)
    assert resumed.taken == [8, 9, 10, 11]
    assert resumed.reports[0].averages == resumed.reports[0].metrics  # not those of the first run
    states = [torch.load(p, weights_only=True)["optimiser"] for p in (path, tmp_path / "whole.pt")]
    moments = [state["state"][0]["exp_avg"] for state in states]
    assert torch.equal(*moments)

    done = LineTask()
    assert equal(run(done, path), whole)
    assert done.taken == []


def test_a_failing_batch_leaves_the_last_saved_state(tmp_path: Path) -> None:
    path = tmp_path / "line.pt"
    saved: list[bytes] = []

    def note(task: LineTask, report: StepReport) -> None:
        if report.step == 5:
            saved.append(path.read_bytes())

    task = LineTask(hook=note, batch_of=failing_at(6))
    with pytest.raises(Fault):
        run(task, path)
    assert task.taken == [0, 1, 2, 3, 4, 5]
    assert [path.read_bytes()] == saved
    assert saved_step(path) == 4


@pytest.mark.parametrize("fault", ["loss", "gradient norm"])
def test_a_step_that_is_not_finite_changes_nothing(fault: str, tmp_path: Path) -> None:
    weights: list[Tensor] = []

    def poison(task: LineTask, report: StepReport) -> None:
        weights.append(task.module.weight.detach().clone())
        if fault == "gradient norm" and report.step == 5:
            task.module.weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]

    poisoned_loss = fault == "loss"
    task = LineTask(
        hook=poison, scale=lambda step: math.nan if poisoned_loss and step == 6 else 1.0
    )
    with pytest.raises(TrainingError, match=f"line: expected a finite {fault} at step 6, got nan"):
        run(task, tmp_path / "line.pt")
    assert torch.equal(task.module.weight, weights[-1])
    assert len(weights) == 6
    assert saved_step(tmp_path / "line.pt") == 4


def test_metrics_are_averaged_exponentially_from_their_first_finite_value() -> None:
    values = {0: math.nan, 1: 2.0, 2: 4.0, 3: math.inf, 4: 6.0}
    task = LineTask(metrics=lambda step: {"share": values[step]})
    TrainingLoop(task, replace(SETTINGS, steps=5)).run()
    assert all(list(report.metrics) == ["loss", "share"] for report in task.reports)
    averages = [report.averages.get("share") for report in task.reports]
    third = SMOOTHING * 2 + (1 - SMOOTHING) * 4
    fifth = SMOOTHING * third + (1 - SMOOTHING) * 6
    assert averages == [None, 2.0, third, third, fifth]
    losses = [report.metrics["loss"] for report in task.reports]
    assert task.reports[0].averages["loss"] == losses[0]
    second = SMOOTHING * losses[0] + (1 - SMOOTHING) * losses[1]
    assert task.reports[1].averages["loss"] == second


def test_the_hook_is_called_after_each_step_and_before_its_checkpoint(tmp_path: Path) -> None:
    events: list[str] = []
    before: list[Tensor] = []

    class Checkpoint(ModuleFile):
        def save(self, finished_steps: int) -> None:
            events.append(f"save {finished_steps}")

    def hook(task: LineTask, report: StepReport) -> None:
        events.append(f"step {report.step}")
        weight = task.module.weight.detach().clone()
        assert not before or not torch.equal(weight, before[-1])
        before.append(weight)

    task = LineTask(hook=hook)
    checkpoint = Checkpoint(tmp_path / "none.pt", task.module, task.optimiser)
    TrainingLoop(task, replace(SETTINGS, steps=5, save_every_steps=2), checkpoint).run()
    expected = ["step 0", "step 1", "save 2", "step 2", "step 3", "save 4", "step 4", "save 5"]
    assert events == expected
    assert task.reports[-1].steps_per_second > 0


@pytest.mark.parametrize("max_norm", [0.5, None])
def test_gradients_are_clipped_to_the_norm_of_the_settings(max_norm: float | None) -> None:
    task = LineTask(scale=lambda step: 1e3)
    task.optimiser = torch.optim.SGD(task.module.parameters(), 1.0)
    before = torch.cat([p.detach().flatten() for p in task.module.parameters()])
    TrainingLoop(task, LoopSettings("clipped", 1, max_gradient_norm=max_norm)).run()
    after = torch.cat([p.detach().flatten() for p in task.module.parameters()])
    moved = float((after - before).norm())
    if max_norm is None:
        assert moved > 100
    else:
        assert moved == pytest.approx(max_norm, rel=1e-4)


def test_every_group_follows_the_schedule_from_its_rate(tmp_path: Path) -> None:
    rates: list[list[float]] = []

    def hook(task: LineTask, report: StepReport) -> None:
        rates.append([group["lr"] for group in task.optimiser.param_groups])

    for batch_of in (failing_at(9), line_batch):
        task = LineTask(hook=hook, batch_of=batch_of)
        groups = [
            {"params": [task.module.weight], "lr": 1e-2},
            {"params": [task.module.bias], "lr": 1e-3},
        ]
        task.optimiser = torch.optim.AdamW(groups)
        try:
            run(task, tmp_path / "line.pt")
        except Fault:
            del rates[8:]  # run again
    shares = [warm_cosine(step, 12, 2) for step in range(12)]
    assert rates == [[1e-2 * share, 1e-3 * share] for share in shares]


def test_the_schedule_warms_up_and_falls_to_its_floor() -> None:
    shares = [warm_cosine(step, 100, 10) for step in range(100)]
    assert shares[:10] == [pytest.approx((step + 1) / 10) for step in range(10)]
    assert shares[9] == shares[10] == max(shares) == 1
    assert all(later < earlier for earlier, later in pairwise(shares[10:]))
    assert warm_cosine(100, 100, 10) == pytest.approx(0.02)
    assert warm_cosine(55, 100, 10) == pytest.approx(0.51)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_a_whole_step_with_the_state_saved(
    number: signal.Signals, tmp_path: Path
) -> None:
    handlers = [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]

    def hook(task: LineTask, report: StepReport) -> None:
        if report.step == 6:
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        run(LineTask(hook=hook), tmp_path / "line.pt")
    assert saved_step(tmp_path / "line.pt") == 7
    assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert equal(run(LineTask(), tmp_path / "line.pt"), run(LineTask(), tmp_path / "whole.pt"))


class Second(SingleProcess):
    """The second of two processes, of which the first gets a signal."""

    is_main = False

    def __init__(self, stopped_at: int) -> None:
        self.steps = 0
        self.waits = 0
        self._stopped_at = stopped_at

    def mean(self, value: Tensor) -> float:
        return float(value) + 1

    def any(self, flag: bool) -> bool:
        self.steps += 1
        return flag or self.steps > self._stopped_at

    def wait(self) -> None:
        self.waits += 1


def test_other_processes_follow_the_main_one(tmp_path: Path) -> None:
    task, alone = LineTask(), LineTask()
    processes = Second(stopped_at=5)
    checkpoint = ModuleFile(tmp_path / "line.pt", task.module, task.optimiser)
    with pytest.raises(KeyboardInterrupt):
        TrainingLoop(task, SETTINGS, checkpoint, processes).run()
    TrainingLoop(alone, SETTINGS).run()
    assert task.taken == [0, 1, 2, 3, 4, 5]
    assert processes.waits == 2
    assert not (tmp_path / "line.pt").exists()
    losses = [report.metrics["loss"] for report in alone.reports[:6]]
    assert [report.metrics["loss"] for report in task.reports] == [loss + 1 for loss in losses]


@pytest.mark.parametrize(
    ("wanted", "fast", "dtype"),
    [(False, True, torch.float32), (True, True, torch.bfloat16), (True, False, torch.float32)],
)
def test_the_precision_of_a_loss(
    wanted: bool, fast: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("aligned_vq.precision.has_bfloat16_arithmetic", lambda kind: fast)
    task, kinds = LineTask(), set[torch.dtype]()
    task.module.register_forward_hook(lambda *call: kinds.add(call[2].dtype))
    TrainingLoop(task, replace(SETTINGS, steps=2, bfloat16=wanted)).run()
    assert kinds == {dtype}
