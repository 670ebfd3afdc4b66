"""Writers of folders: bundles, and the checkpoints of a training run."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import torch

from aligned_vq.calibration.codec import (
    CodecPlan,
    calibrate_codec,
    export_bundle,
    features_at,
    pixel_batches,
)
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.data.scenes.exam import training_images
from aligned_vq.files.atomic_folder import recover
from aligned_vq.graph.writing import write_graph
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import CHECKPOINT
from aligned_vq.split.loading import load_prefix
from aligned_vq.training.config_file import config_from
from aligned_vq.training.modules import build_optimiser
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.state import load_state, save_state
from aligned_vq.types import SplitPoint
from benchmarks.kills.killing import readable_by_others
from edge_client.encoder import EdgeEncoder

_SPLIT = SplitPoint(1, "ln1")
_PLAN = CodecPlan(_SPLIT, codebook_sizes=(64, 32), codebook_dim=16)
_TRAIN_STEPS, _TRAINED_EVERY = 1000, 8


class ExportWriter:
    """Writes a bundle in a cycle of four steps.

    Export a bundle without a graph; add a graph; export another bundle with a graph; replace that
    graph by one with 8-bit weights.
    """

    name = "export"

    def __init__(self, folder: Path) -> None:
        self._out = folder / "bundle"
        self._checkpoint = LlavaCheckpoint(CHECKPOINT)
        pixels = pixel_batches(self._checkpoint, training_images(2))
        examples = features_at(load_prefix(self._checkpoint, _SPLIT), pixels)
        self._codecs = [calibrate_codec(self._checkpoint, _PLAN, examples, seed) for seed in (0, 1)]
        self._states = []
        for step in range(4):
            self.write(step)
            self._states.append(self._state())
        assert len(set(self._states)) == 4
        self._last: int | None = 3

    def start(self, rng: np.random.Generator) -> int:
        """Remove the bundle in some rounds."""
        if rng.random() < 0.2:
            shutil.rmtree(self._out, ignore_errors=True)
            self._last = None
        return 0 if self._last is None else self._last + 1

    def write(self, step: int) -> None:
        """Write as `export`, `export-onnx`, `export --onnx` or `export-onnx --int8` does."""
        kind = step % 4
        if kind in (1, 3):
            write_graph(self._out, int8=kind == 3)
        else:
            finish = partial(write_graph) if kind == 2 else None
            export_bundle(self._checkpoint, self._codecs[kind // 2], self._out, finish)

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """The bundle opens on both sides, is one of the two expected, and is readable by others."""
        before = self._last if not done else first + done - 1
        recover(self._out)  # as every reader of a manifest does
        if not self._out.exists():
            return "before", [] if before is None else ["expected a bundle, got none"]
        kind = self._states.index(self._state())
        allowed = {number % 4 for number in (before, first + begun - 1) if number is not None}
        faults = [] if kind in allowed else [f"expected one of {allowed}, got {kind}"]
        open_edge_bundle(self._out)
        open_cloud_bundle(self._out)
        if kind:  # every kind but the first has a graph
            EdgeEncoder(self._out, "onnx")
        if not all(readable_by_others(self._out.iterdir())):
            faults.append("expected a bundle that others can read, got unreadable files")
        state = "new" if begun > done and kind == (first + begun - 1) % 4 else "before"
        self._last = kind
        return state, faults

    def leftovers(self) -> list[str]:
        """Names beside the bundle that are derived from its name."""
        return _siblings(self._out)

    def _state(self) -> tuple[str, str | None]:
        manifest = read_manifest(self._out)
        return manifest.edge_weights_digest, manifest.edge_graph_digest


class CheckpointWriter:
    """Writes the checkpoints of a training run: codec and optimiser of the reference model."""

    name = "checkpoint"

    def __init__(self, folder: Path) -> None:
        self._out = folder / "run"
        self._resumed = folder / "resumed"
        settings = {
            "codec": {"split": str(_SPLIT), "codebook_sizes": [64, 32], "codebook_dim": 16},
            "data": {"train": "reference:4", "calibration_images": 2},
            "align": {"steps": _TRAIN_STEPS, "batch_size": 1},
            "task": {"steps": 0},
            "precision": "no",
        }
        self._config = config_from(settings, "kills")
        run = TrainingRun.open(self._config, self._out)
        self._facts = {"run": run._identity}
        self._tensors = run.modules.tensors()
        self._optimiser = build_optimiser(run.modules.model, self._config, self._config.align)
        for group in self._optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self._optimiser.step()  # creates the optimiser's state, which is part of a checkpoint
        # `write` fills this tensor with the step, which shows whether files belong together.
        self._mark = next(name for name in self._tensors if name.startswith("link."))
        self._last: int | None = None

    def start(self, rng: np.random.Generator) -> int:
        """Remove the checkpoint in some rounds."""
        if rng.random() < 0.2:
            shutil.rmtree(self._out / "state", ignore_errors=True)
            self._last = None
        return 0 if self._last is None else self._last + 1

    def write(self, step: int) -> None:
        """Save as a run does between two steps; both files contain the number of the step."""
        with torch.no_grad():
            self._tensors[self._mark].fill_(step)
        # Every `_TRAINED_EVERY` steps the checkpoint is one step before the end of training.
        at = _TRAIN_STEPS - 1 - step % _TRAINED_EVERY
        facts = {**self._facts, "stage": "align", "step": at, "written": step}
        save_state(self._out / "state", facts, self._tensors, self._optimiser)

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """A run resumes from the checkpoint, and in some rounds trains to its end."""
        before = self._last if not done else first + done - 1
        run = TrainingRun.open(self._config, self._out)
        saved = load_state(self._out / "state")
        if saved is None:
            return "before", [] if before is None else ["expected a checkpoint, got none"]
        facts, tensors = saved
        written, faults = facts["written"], []
        if written not in (before, first + begun - 1):
            faults.append(f"expected step {before} or {first + begun - 1}, got {written}")
        marks = (tensors[self._mark], run.modules.tensors()[self._mark])
        if run.at_step != facts["step"] or any(bool((mark != written).any()) for mark in marks):
            faults.append(f"expected tensors of step {written}, got others")
        if run.at_step == _TRAIN_STEPS - 1:
            shutil.rmtree(self._resumed, ignore_errors=True)
            TrainingRun.open(self._config, shutil.copytree(self._out, self._resumed)).train()
            ended = load_state(self._resumed / "state")
            if ended is None or ended[0]["step"] != _TRAIN_STEPS:
                faults.append("expected a run that resumes and reaches its end, got another state")
        if not all(readable_by_others((self._out / "state").iterdir())):
            faults.append("expected a checkpoint that others can read, got unreadable files")
        self._last = written
        return ("new" if begun > done and written == first + begun - 1 else "before"), faults

    def leftovers(self) -> list[str]:
        """Names beside the checkpoint that are derived from its name."""
        return _siblings(self._out / "state")


def _siblings(path: Path) -> list[str]:
    """Names in the same folder that contain the name of `path`, such as temporary folders."""
    return [
        other.name for other in path.parent.iterdir() if path.name in other.name and other != path
    ]
