"""One stage of a run: steps of an optimiser, on one process or many, resumable at any step."""

from __future__ import annotations

import json
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn
from tqdm import tqdm

from aligned_vq.data.batches import Batch, Steps
from aligned_vq.errors import TrainingError
from aligned_vq.training.codebooks import CodebookKeeper, Felt
from aligned_vq.training.config import StageConfig, TrainConfig
from aligned_vq.training.lora import adapter_parameters
from aligned_vq.training.model import BitSpending, SplitModel, StepOutput
from aligned_vq.training.rate_control import RateControl
from aligned_vq.training.schedule import warm_cosine

SMOOTHING = 0.95
SAME_STOP_SECONDS = 2.0
"""A launcher of many processes passes on the signal that the terminal sent them already."""
Save = Callable[[int, torch.optim.Optimizer], None]


@dataclass
class Learners:
    """Everything whose state changes in training."""

    model: SplitModel
    keeper: CodebookKeeper | None
    control: RateControl

    def tensors(self) -> dict[str, Tensor]:
        """All of it by name; the frozen model is not in it."""
        found = {f"link.{k}": v for k, v in self.model.link.state_dict().items()}
        if self.model.quantizer is not None and self.keeper is not None:
            found |= {f"quantizer.{k}": v for k, v in self.model.quantizer.state_dict().items()}
            found |= {f"keeper.{k}": v for k, v in self.keeper.state_dict().items()}
        found |= {f"control.{k}": v for k, v in self.control.state_dict().items()}
        found |= {f"lora.{k}": p.data for k, p in adapter_parameters(self.model).items()}
        return found

    def load(self, tensors: dict[str, Tensor]) -> None:
        """Put back what `tensors` gave."""
        for name, own in self.tensors().items():
            with torch.no_grad():
                own.copy_(tensors[name])


def build_optimiser(
    model: SplitModel, config: TrainConfig, stage: StageConfig
) -> torch.optim.Optimizer:
    """AdamW without decay over codec, entries, refiner and adapters, each at its own rate."""
    entries: list[nn.Parameter] = []
    refiner: list[nn.Parameter] = []
    codec = list(model.link.parameters())
    if model.quantizer is not None:
        for name, parameter in model.quantizer.named_parameters():
            own = refiner if name.startswith("refiner.") else codec
            (entries if name.endswith("entries") else own).append(parameter)
    if config.codebooks.update == "ema":
        entries = []
    groups = [
        {"params": codec, "lr": stage.learning_rate},
        {"params": entries, "lr": stage.codebook_learning_rate},
        {"params": refiner, "lr": stage.refiner_learning_rate},
    ]
    if stage.task:
        adapters = list(adapter_parameters(model).values())
        groups.append({"params": adapters, "lr": config.lora.learning_rate})
    kept = [group for group in groups if group["params"]]
    return torch.optim.AdamW(kept, betas=(0.9, 0.98), weight_decay=0.0)


def run_stage(
    name: str,
    accelerator: Accelerator,
    learners: Learners,
    config: TrainConfig,
    stage: StageConfig,
    steps: Steps,
    optimiser: torch.optim.Optimizer,
    first: int,
    save: Save,
    log: Path,
) -> None:
    """Run a stage from step `first` to its end.

    Raises:
        TrainingError: a loss is not finite.
        KeyboardInterrupt: SIGINT or SIGTERM came; the state was saved after a whole step.
    """
    rates = [group["lr"] for group in optimiser.param_groups]
    model, optimiser_ = accelerator.prepare(learners.model, optimiser)
    trained = [p for group in optimiser.param_groups for p in group["params"]]
    for parameter in trained:
        parameter.requires_grad_(True)
    shown: dict[str, float] = {}
    chief = accelerator.is_main_process
    bar = tqdm(total=stage.steps, initial=first, desc=name, unit="step", disable=not chief)
    batches = steps.loader(first, stage.steps, config.data.workers)
    started = time.monotonic()
    with bar, _stop_signal() as stopped:
        for step, batch in zip(range(first, stage.steps), batches, strict=True):
            share = warm_cosine(step, stage.steps, stage.warmup_steps)
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * share
            torch.manual_seed(hash_of(config.seed, steps.stage, step, accelerator.process_index))
            rng = np.random.default_rng([config.seed, steps.stage, step, 1])
            chain, picked, weights = learners.control.draw(rng, stage.batch_size)
            own = batch.picked
            spending = BitSpending(chain, None if weights is None else weights[own])
            try:
                output, loss = _step(
                    accelerator, model, optimiser_, trained, batch, spending, stage
                )
            except FloatingPointError as error:
                raise TrainingError(
                    f"{name}: expected a finite loss and gradient at step {step}, got {error}; the "
                    "checkpoint of an earlier step is kept: lower the learning rate or look at the "
                    "data"
                ) from error
            _observe(accelerator, learners, output, chain, picked, own, step, rng, optimiser)
            figures = {"loss": loss, **{key: term.item() for key, term in output.terms.items()}}
            figures["bits"] = output.rate_bits.mean().item()
            for key, value in figures.items():
                if math.isfinite(value):
                    shown[key] = SMOOTHING * shown.get(key, value) + (1 - SMOOTHING) * value
            if chief:
                _note(log, {"stage": name, "step": step, "chain": list(chain), **figures})
                bar.set_postfix({k: f"{v:.3g}" for k, v in shown.items()}, refresh=False)
            bar.update()
            last = step + 1 == stage.steps
            if (step + 1) % 10 == 0 or last:
                done = (step + 1 - first) * stage.batch_size
                books = learners.keeper.figures() if learners.keeper is not None else {}
                speed = {"images_per_second": done / (time.monotonic() - started)}
                values = {f"{name}/{k}": v for k, v in (shown | books | speed).items()}
                accelerator.log(values, step=step)
            came = torch.tensor([float(stopped())], device=accelerator.device)
            halt = bool(accelerator.gather(came).any())
            if halt or last or (step + 1) % config.save_every == 0:
                if chief:
                    save(step + 1, optimiser)
                accelerator.wait_for_everyone()
            if halt:
                raise KeyboardInterrupt
    if accelerator.num_processes > 1:
        accelerator.free_memory()  # the wrapper of this stage; the next stage makes its own


def _step(
    accelerator: Accelerator,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    trained: list[nn.Parameter],
    batch: Batch,
    spending: BitSpending,
    stage: StageConfig,
) -> tuple[StepOutput, float]:
    """One step and its loss over all processes; FloatingPointError, and no step, for NaN."""
    optimiser.zero_grad(set_to_none=True)
    pixels = batch.pixels.to(accelerator.device)
    if spending.rate_weight is not None:
        spending = BitSpending(spending.stages, spending.rate_weight.to(accelerator.device))
    output: StepOutput = model(pixels, batch.text, spending, stage)
    loss = float(accelerator.gather(output.loss.detach().reshape(1)).mean())
    if not math.isfinite(loss):
        raise FloatingPointError(f"a loss of {loss}")
    accelerator.backward(output.loss)
    norm = accelerator.clip_grad_norm_(trained, 1.0)
    if norm is not None and not bool(torch.isfinite(norm)):
        raise FloatingPointError(f"a gradient of norm {float(norm)}")
    optimiser.step()
    return output, loss


def _observe(
    accelerator: Accelerator,
    learners: Learners,
    output: StepOutput,
    chain: tuple[int, ...],
    picked: list[int],
    own: Tensor,
    step: int,
    rng: np.random.Generator,
    optimiser: torch.optim.Optimizer,
) -> None:
    """What codebooks and rate weights learn from a step, the same on every process."""
    if learners.keeper is None:
        return
    latents_hat = learners.model.latents_hat
    felt = None
    if latents_hat is not None and latents_hat.grad is not None:
        error = latents_hat.detach() - output.choices[chain[0]].inputs
        felt = Felt(latents_hat.grad, error)
    generator = torch.Generator().manual_seed(int(rng.integers(1 << 62)))
    revived = learners.keeper.update(output.choices, chain, felt, step, generator)
    for entries, rows in revived:
        for moment in optimiser.state.get(entries, {}).values():
            if moment.shape == entries.shape:
                moment[rows] = 0
    order = accelerator.gather(own.to(accelerator.device)).tolist()
    rates = accelerator.gather(output.rate_bits.detach().contiguous()).tolist()
    learners.control.observe([picked[position] for position in order], rates)


def hash_of(*numbers: int) -> int:
    """A seed from several numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> 1)


def _note(path: Path, figures: dict[str, object]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(figures) + "\n")


@contextmanager
def _stop_signal() -> Iterator[Callable[[], bool]]:
    """Tells whether SIGINT or SIGTERM came; a later one stops at once."""
    came: list[float] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(time.monotonic())
        if came[-1] - came[0] > SAME_STOP_SECONDS:
            raise KeyboardInterrupt

    try:
        before = {n: signal.signal(n, note) for n in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever runs this one stops it otherwise
        before = {}
    try:
        yield lambda: bool(came)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
