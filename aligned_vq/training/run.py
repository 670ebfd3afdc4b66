"""One training run: calibrate, align, task, and the bundle that comes of it.

out/state/          the resumable state
out/losses.jsonl    every step's losses
out/logs/           TensorBoard
out/bundle/         the trained bundle (export)
out/checkpoint/     the LLaVA it belongs to, where adapters were merged into it
"""

from __future__ import annotations

import hashlib
import json
import logging
import warnings
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from accelerate.utils import broadcast

from aligned_vq.calibration.codec import CutFeatures, blank_codec, features_at, pixel_batches
from aligned_vq.data.batches import Steps
from aligned_vq.data.examples import ExampleSource
from aligned_vq.data.sources import CHECKED_AT_START, open_source
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.packing import Packer
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.shipped import checkpoint_source
from aligned_vq.split.loading import load_prefix, load_suffix, suffix_names
from aligned_vq.training.codebooks import CodebookKeeper
from aligned_vq.training.config import PointConfig, TrainConfig
from aligned_vq.training.fitting import fit_start
from aligned_vq.training.lora import add_adapters
from aligned_vq.training.model import SplitModel
from aligned_vq.training.rate_control import RateControl
from aligned_vq.training.stage import Learners, build_optimiser, run_stage
from aligned_vq.training.state import load_state, restore_optimiser, save_state, trim_log

STAGES = ("align", "task")
LOG = "losses.jsonl"
START_HOURS = 3
"""Other processes wait this long while one renders or indexes the data and calibrates."""
_log = logging.getLogger(__name__)


class TrainingRun:
    """A run in a folder; `train` takes it from wherever it was to the end of its last stage.

    Args:
        config: what to do.
        out: the run's folder; a run that was stopped there goes on.

    Raises:
        ConfigError: an impossible combination, unreadable data, or `out` holds another run.
    """

    def __init__(self, config: TrainConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.checkpoint = LlavaCheckpoint(checkpoint_source(config.checkpoint), config.revision)
        self.plan = config.check(self.checkpoint.tower)
        self._identity = self._name()
        saved = self._saved()
        bf16 = config.precision == "bf16"
        self.accelerator = Accelerator(
            # Said aloud, or processes without a GPU would not find each other.
            cpu=not torch.cuda.is_available(),
            mixed_precision="bf16" if bf16 else "no",
            log_with="tensorboard",
            project_dir=str(out),
            kwargs_handlers=[
                # A step uses some of the codebooks only.
                DistributedDataParallelKwargs(find_unused_parameters=True),
                InitProcessGroupKwargs(timeout=timedelta(hours=START_HOURS)),
            ],
        )
        self._check_batches()
        with self.accelerator.main_process_first():
            self.source: ExampleSource = open_source(config.data.train, out / "data")
        self._check_pairs()
        self.learners = self._build()
        self.at_stage, self.at_step, self._tensors = ("calibrate", 0, {})
        if saved is not None:
            facts, self._tensors = saved
            self.at_stage, self.at_step = facts["stage"], facts["step"]
            self.learners.load(self._tensors)

    def train(self) -> None:
        """Calibrate, then every stage with steps.

        Raises:
            TrainingError: a loss is not finite; the state before it is kept.
            OSError: a checkpoint cannot be written; the one before is kept.
            KeyboardInterrupt: stopped by a signal; the state is saved.
        """
        self.out.mkdir(parents=True, exist_ok=True)
        if self.accelerator.is_main_process:
            start = STAGES.index(self.at_stage) if self.at_stage in STAGES else 0
            trim_log(
                self.out / LOG,
                lambda f: (STAGES.index(f["stage"]), f["step"]) < (start, self.at_step),
            )
        self.accelerator.init_trackers("logs")
        if self.at_stage == "calibrate":
            self._fit()
            self._save("align", 0, None)
            self.at_stage = "align"
        for number, name in enumerate(STAGES):
            if STAGES.index(self.at_stage) > number:
                continue
            self._stage(number, name, self.at_step if name == self.at_stage else 0)
            self.at_stage, self.at_step = name, getattr(self.config, name).steps
        self.accelerator.end_training()

    def examples(self, count: int, last: bool = False) -> CutFeatures:
        """Features at the cut of the first (or last) `count` pictures of the source."""
        start = max(0, len(self.source) - count) if last else 0
        pictures = (
            self.source[i].image for i in range(start, min(start + count, len(self.source)))
        )
        prefix = load_prefix(self.checkpoint, self.plan.split)
        return features_at(prefix, pixel_batches(self.checkpoint, pictures))

    def _stage(self, number: int, name: str, first: int) -> None:
        stage = getattr(self.config, name)
        if not stage.steps or first >= stage.steps:
            return
        model = self.learners.model
        steps = Steps(
            self.source,
            self.checkpoint.processor(),
            model.packer if stage.task else None,
            stage.batch_size,
            self.config.data.pairs_per_image,
            self.config.seed,
            number,
            self.accelerator.process_index,
            self.accelerator.num_processes,
        )
        optimiser = build_optimiser(model, self.config, stage)
        if first:
            restore_optimiser(optimiser, self._tensors)
        run_stage(
            name,
            self.accelerator,
            self.learners,
            self.config,
            stage,
            steps,
            optimiser,
            first,
            lambda step, by: self._save(name, step, by),
            self.out / LOG,
        )

    def _build(self) -> Learners:
        """Frozen model, blank codec, and what moves beside gradients."""
        from transformers import AutoProcessor, LlavaForConditionalGeneration

        config, checkpoint = self.config, self.checkpoint
        torch.manual_seed(config.seed)
        directory = checkpoint.directory()
        device = self.accelerator.device
        dtype = torch.bfloat16 if device.type == "cuda" and config.precision == "bf16" else None
        frozen = dtype or torch.float32
        quantizer, link, _ = blank_codec(checkpoint, self.plan)
        llava = packer = None
        if config.task.steps and config.task.task:
            llava = LlavaForConditionalGeneration.from_pretrained(directory, dtype=frozen)
            llava.model.vision_tower = None
            llava.eval().requires_grad_(False)
            if config.gradient_checkpointing:
                with warnings.catch_warnings():
                    # The name that every transformers 5 knows, though the last ones have another.
                    warnings.filterwarnings("ignore", ".*checkpointing_enable` is", FutureWarning)
                    llava.gradient_checkpointing_enable({"use_reentrant": False})
                llava.train()  # transformers checkpoints in training mode only; LLaVA drops nothing
            packer = Packer(
                AutoProcessor.from_pretrained(directory, use_fast=False),
                checkpoint.tower.num_selected_tokens,
            )
        model = SplitModel(
            load_prefix(checkpoint, self.plan.split, frozen),
            quantizer,
            link,
            load_suffix(checkpoint, self.plan.split, frozen),
            llava,
            packer,
            config.codebooks,
        ).to(device)
        if config.lora.rank and llava is not None:
            add_adapters(model, config.lora)
        keeper = None if quantizer is None else self._keeper(quantizer)
        points = config.codec.points
        if not points and quantizer is not None:  # those of the plan, free of a rate
            points = {p.name: PointConfig(p.stages) for p in self.plan.operating_points}
        targets = {
            name: 8 * point.mean_bytes / config.codebooks.rate_gain
            for name, point in points.items()
            if point.mean_bytes is not None
        }
        control = RateControl(points, targets)
        return Learners(model, keeper, control)

    @torch.no_grad()
    def _fit(self) -> None:
        """Fit the codec without gradients, on one process; the others get its result."""
        model, control, config = self.learners.model, self.learners.control, self.config
        if model.quantizer is None:
            return
        if self.accelerator.is_main_process:
            count = config.data.calibration_images
            _log.info("calibrating on %d pictures", count)
            examples = self.examples(count)
            quantizer, link = model.quantizer.cpu(), model.link.cpu()
            fit_start(quantizer, link, control, self.plan, examples, config.seed)
        model.to(self.accelerator.device)
        self.learners.keeper = self._keeper(model.quantizer)
        for tensor in self.learners.tensors().values():
            tensor.copy_(broadcast(tensor.to(self.accelerator.device)))

    def _keeper(self, quantizer: AlignedVQ) -> CodebookKeeper:
        keeper = CodebookKeeper(
            quantizer,
            self.config.codebooks,
            lambda tensor: self.accelerator.reduce(tensor, "sum"),
            self.accelerator.gather,
        )
        return keeper.to(self.accelerator.device)

    def _save(self, stage: str, step: int, optimiser: torch.optim.Optimizer | None) -> None:
        if self.accelerator.is_main_process:
            facts = {"run": self._identity, "stage": stage, "step": step}
            save_state(self.out / "state", facts, self.learners.tensors(), optimiser)

    def _check_batches(self) -> None:
        processes = self.accelerator.num_processes
        for name in STAGES:
            stage = getattr(self.config, name)
            if stage.steps and stage.batch_size % processes:
                raise ConfigError(
                    f"{name}: batch_size must be a multiple of the {processes} processes, got "
                    f"{stage.batch_size}"
                )

    def _check_pairs(self) -> None:
        task = self.config.task
        some = range(min(CHECKED_AT_START, len(self.source)))
        if task.steps and task.task and not any(self.source[index].pairs for index in some):
            raise ConfigError(
                f"task: expected questions and answers in {self.config.data.train}, found none; "
                "give other data, or task.task 0 to learn without"
            )

    def _saved(self) -> Any:
        saved = load_state(self.out / "state")
        if saved is not None and saved[0].get("run") != self._identity:
            different = [
                name
                for name, value in self._identity.items()
                if saved[0].get("run", {}).get(name) != value
            ]
            raise ConfigError(
                f"{self.out} holds a run of another {' and '.join(different) or 'kind'}; give the "
                "configuration and checkpoint it was started with, or another folder"
            )
        return saved

    def _name(self) -> dict[str, str]:
        """What a resumed run must share with the one before."""
        settings = json.dumps(asdict(self.config))  # the order of points counts
        names = suffix_names(self.checkpoint, self.plan.split)
        return {
            "configuration": hashlib.sha256(settings.encode()).hexdigest(),
            "model": self.checkpoint.vision_digest(names),
        }
