"""One training run of a codec: the stages calibrate, align and task, resumable at every step.

out/state/          the resumable state
out/losses.jsonl    every step's losses
out/logs/           TensorBoard
out/bundle/         the trained bundle (export)
out/checkpoint/     with adapters: the LLaVA with the adapters merged into its weights
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast
from torch import Tensor

from aligned_vq.calibration.codec import CodecPlan, CutFeatures, features_at, pixel_batches
from aligned_vq.calibration.quantizer import calibrate
from aligned_vq.data.batches import Steps
from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.sources import CHECKED_AT_START, open_source
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.precision import has_bfloat16_arithmetic
from aligned_vq.shipped import checkpoint_source
from aligned_vq.split.loading import load_prefix, suffix_names
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.loop import TrainingLoop
from aligned_vq.training.modules import (
    TrainedModules,
    build_optimiser,
    load_modules,
    new_updater,
)
from aligned_vq.training.stage import (
    AcceleratedProcesses,
    CodecTask,
    StageCheckpoint,
    check_shared,
)
from aligned_vq.training.state import load_state, save_state, trim_log

STAGES = ("align", "task")
LOG = "losses.jsonl"
START_HOURS = 3
"""Limit of the other processes' wait while one renders or indexes the data and calibrates."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunParts:
    """What a run needs that takes long to load, or is shared with other processes."""

    checkpoint: LlavaCheckpoint
    accelerator: Accelerator
    source: ExampleSource
    modules: TrainedModules
    """As of the saved state, if there is one."""
    identity: dict[str, str]
    """Digests that a resumed run must share with the run that it resumes."""


class RunState(NamedTuple):
    """What a run's folder holds."""

    stage: str
    """One of `STAGES`, or "calibrate" where nothing is saved."""
    step: int
    """Finished steps of that stage."""
    tensors: dict[str, Tensor]


class TrainingRun:
    """A run in a folder; `train` takes it from its saved state to the end of its last stage.

    Args:
        config: of the run.
        out: the run's folder.
        parts: loaded by `open`.
        state: what the folder holds.

    Attributes:
        at_stage, at_step: the stage in which the run is, "calibrate" at first, and its finished
            steps.
    """

    def __init__(self, config: TrainConfig, out: Path, parts: RunParts, state: RunState) -> None:
        self.config = config
        self.out = out
        self.checkpoint = parts.checkpoint
        self.plan = config.codec.plan()
        self.accelerator = parts.accelerator
        self.source = parts.source
        self.modules = parts.modules
        self.at_stage, self.at_step, self._tensors = state
        self._identity = parts.identity

    @classmethod
    def open(cls, config: TrainConfig, out: Path) -> TrainingRun:
        """Load model and data of a run, and the state of one that was stopped in the folder `out`.

        Raises:
            ConfigError: an impossible combination, unreadable data, or `out` holds another run.
        """
        checkpoint = LlavaCheckpoint(checkpoint_source(config.checkpoint), config.revision)
        plan = config.check(checkpoint.tower)
        # Before model and data are loaded: the folder of another run is refused at once.
        identity = _identity(config, checkpoint, plan)
        state = _saved_state(out, identity)
        accelerator = _new_accelerator(config, out)
        _check_batches(config, accelerator.num_processes)
        # One process renders or indexes the data; the others read its result.
        with accelerator.main_process_first():
            source = open_source(config.data.train, out / "data")
        _check_pairs(config, source)
        modules = load_modules(config, checkpoint, plan, accelerator)
        if state.stage != "calibrate":
            modules.load(state.tensors)
        parts = RunParts(checkpoint, accelerator, source, modules, identity)
        return cls(config, out, parts, state)

    def train(self) -> None:
        """Calibrate, then every stage with steps.

        Raises:
            TrainingError: a loss or gradient is not finite; the last checkpoint stays.
            OSError: a checkpoint cannot be written; the one before stays.
            KeyboardInterrupt: stopped by a signal; the state was saved after a whole step.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            start = STAGES.index(self.at_stage) if self.at_stage in STAGES else 0
            trim_log(
                self.out / LOG,
                lambda line: (STAGES.index(line["stage"]), line["step"]) < (start, self.at_step),
            )
        self.accelerator.init_trackers("logs")
        if self.at_stage == "calibrate":
            self._fit()
            # A resumed run does not calibrate again.
            self._save("align", 0, None)
            self.at_stage = "align"
        for number, name in enumerate(STAGES):
            if STAGES.index(self.at_stage) > number:
                continue
            self._stage(number, name, self.at_step if name == self.at_stage else 0)
            self.at_stage, self.at_step = name, getattr(self.config, name).steps
        self.accelerator.end_training()

    def examples(self, count: int, last: bool = False) -> CutFeatures:
        """Features at the cut of the first (or last) `count` images of the source."""
        start = max(0, len(self.source) - count) if last else 0
        # A generator, so that only one batch of images is in memory.
        images = (self.source[i].image for i in range(start, min(start + count, len(self.source))))
        prefix = load_prefix(self.checkpoint, self.plan.split)
        return features_at(prefix, pixel_batches(self.checkpoint, images))

    def _stage(self, number: int, name: str, first: int) -> None:
        stage = getattr(self.config, name)
        if not stage.steps or first >= stage.steps:
            return
        model = self.modules.model
        steps = Steps(
            source=self.source,
            settings=self.checkpoint.processor(),
            packer=model.packer if stage.task else None,
            batch_size=stage.batch_size,
            pairs_per_image=self.config.data.pairs_per_image,
            seed=self.config.seed,
            stage=number,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
        )
        optimiser = build_optimiser(model, self.config, stage)
        task = CodecTask(
            name=name,
            accelerator=self.accelerator,
            modules=self.modules,
            config=self.config,
            stage=stage,
            steps=steps,
            unwrapped_optimiser=optimiser,
            log=self.out / LOG,
        )
        write = partial(self._save, name)
        checkpoint = StageCheckpoint(first, self._tensors, optimiser, write)
        processes = AcceleratedProcesses(self.accelerator)
        TrainingLoop(task, task.settings(), checkpoint, processes).run()
        if self.accelerator.num_processes > 1:
            self.accelerator.free_memory()  # every stage wraps the model anew

    @torch.no_grad()
    def _fit(self) -> None:
        """Calibrate the codec without gradients in the main process; the others get its result."""
        model, control, config = self.modules.model, self.modules.control, self.config
        if model.quantizer is None:
            return
        if self.accelerator.is_main_process:
            count = config.data.calibration_images
            _log.info("calibrating on %d images", count)
            examples = self.examples(count)
            # On the CPU, where faiss and the examples are.
            quantizer, link = model.quantizer.cpu(), model.link.cpu()
            calibrate(quantizer, link, *examples, self.plan.calibration(config.seed))
            control.fit(quantizer, self.plan, examples.features)
        model.to(self.accelerator.device)
        # A new one, because its averages start from the calibrated usage counts.
        self.modules.updater = new_updater(model.quantizer, config.codebooks, self.accelerator)
        for tensor in self.modules.tensors().values():
            tensor.copy_(broadcast(tensor.to(self.accelerator.device)))

    def _save(self, stage: str, step: int, optimiser: torch.optim.Optimizer | None) -> None:
        if self.accelerator.is_main_process:
            facts = {"run": self._identity, "stage": stage, "step": step}
            save_state(self.out / "state", facts, self.modules.tensors(), optimiser)


def _identity(config: TrainConfig, checkpoint: LlavaCheckpoint, plan: CodecPlan) -> dict[str, str]:
    settings = json.dumps(asdict(config))  # the order of points counts
    names = suffix_names(checkpoint, plan.split)
    return {
        "configuration": hashlib.sha256(settings.encode()).hexdigest(),
        "model": checkpoint.vision_digest(names),
    }


def _saved_state(out: Path, identity: Mapping[str, str]) -> RunState:
    saved = load_state(out / "state")
    if saved is None:
        return RunState("calibrate", 0, {})
    facts, tensors = saved
    saved_identity = facts.get("run", {})
    if saved_identity != identity:
        different = [name for name in identity if saved_identity.get(name) != identity[name]]
        raise ConfigError(
            f"{out} holds a run of another {' and '.join(different) or 'kind'}; give the "
            "configuration and checkpoint it was started with, or another folder"
        )
    return RunState(facts["stage"], facts["step"], tensors)


def _new_accelerator(config: TrainConfig, out: Path) -> Accelerator:
    has_gpu = torch.cuda.is_available()
    fast = has_bfloat16_arithmetic("cuda" if has_gpu else "cpu")
    return Accelerator(
        # Explicit, because processes without a GPU would not form a group otherwise.
        cpu=not has_gpu,
        mixed_precision=config.precision if fast else "no",
        log_with="tensorboard",
        project_dir=str(out),
        kwargs_handlers=[
            # A step uses only some of the codebooks.
            DistributedDataParallelKwargs(find_unused_parameters=True),
            InitProcessGroupKwargs(timeout=timedelta(hours=START_HOURS)),
        ],
    )


def _check_batches(config: TrainConfig, processes: int) -> None:
    for name in STAGES:
        stage = getattr(config, name)
        if stage.steps:
            check_shared(f"{name}: batch_size", stage.batch_size, processes)


def _check_pairs(config: TrainConfig, source: ExampleSource) -> None:
    task = config.task
    sample = range(min(CHECKED_AT_START, len(source)))
    if task.steps and task.task and not any(source[index].pairs for index in sample):
        raise ConfigError(
            f"task: expected questions and answers in {config.data.train}, found none; "
            "give other data, or task.task 0 to learn without"
        )
