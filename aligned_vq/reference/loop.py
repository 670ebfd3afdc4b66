"""One resumable optimisation loop, shared by every stage of the reference recipe."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor, nn
from tqdm import tqdm

from aligned_vq.files.atomic_file import write_file
from aligned_vq.training.schedule import warm_cosine

BatchT = TypeVar("BatchT")
Loss = tuple[Tensor, dict[str, float]]


@dataclass(frozen=True)
class Stage:
    """How long and how fast one stage learns."""

    name: str
    steps: int
    batch_size: int
    learning_rate: float
    warmup_steps: int = 100
    bfloat16: bool = False
    """Autocast the forward pass: twice the speed on CPUs and GPUs that have it."""
    weight_decay: float = 0.02
    save_every_steps: int = 100


def optimise(
    stage: Stage,
    module: nn.Module,
    batch_of: Callable[[int], BatchT],
    loss_of: Callable[[BatchT], Loss],
    workdir: Path,
) -> None:
    """Run a stage to its end, or from where an interrupted run left it.

    Args:
        stage: how long and how fast.
        module: what learns; its state is kept in `workdir/<stage>.pt`.
        batch_of: the batch of a step. It must depend on the step alone, so that a resumed run sees
            what the interrupted one would have seen; it is called ahead, in a thread.
        loss_of: loss and figures for the log of a batch.
        workdir: where the state is kept.
    """
    path = workdir / f"{stage.name}.pt"
    trained = [p for p in module.parameters() if p.requires_grad]
    device = trained[0].device
    optimiser = torch.optim.AdamW(
        trained, stage.learning_rate, betas=(0.9, 0.98), weight_decay=stage.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: warm_cosine(step, stage.steps, stage.warmup_steps)
    )
    first = 0
    if path.exists():
        saved = torch.load(path, weights_only=True)
        module.load_state_dict(saved["module"])
        first = saved["step"]
        if first < stage.steps:
            optimiser.load_state_dict(saved["optimiser"])
            schedule.load_state_dict(saved["schedule"])
    seen: dict[str, float] = {}
    with (
        ThreadPoolExecutor(1) as ahead,
        tqdm(total=stage.steps, initial=first, desc=stage.name, unit="step") as bar,
    ):
        upcoming = ahead.submit(batch_of, first)
        for step in range(first, stage.steps):
            batch = upcoming.result()
            upcoming = ahead.submit(batch_of, step + 1)
            optimiser.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled=stage.bfloat16):
                loss, metrics = loss_of(batch)
            loss.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            schedule.step()
            for key, value in {"loss": loss.item(), **metrics}.items():
                if not math.isnan(value):
                    seen[key] = value if key not in seen else 0.95 * seen[key] + 0.05 * value
            bar.set_postfix({key: f"{value:.3f}" for key, value in seen.items()}, refresh=False)
            bar.update()
            if (step + 1) % stage.save_every_steps == 0 or step + 1 == stage.steps:
                _save(path, step + 1, module, optimiser, schedule)


def _save(
    path: Path,
    step: int,
    module: nn.Module,
    optimiser: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LambdaLR,
) -> None:
    state = {
        "step": step,
        "module": module.state_dict(),
        "optimiser": optimiser.state_dict(),
        "schedule": schedule.state_dict(),
    }
    written = io.BytesIO()  # on a full disk torch says something unclear
    torch.save(state, written)
    write_file(path, written.getbuffer())
