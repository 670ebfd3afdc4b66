"""Writers of large things: bundles, and the checkpoints of a training run."""

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
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.stage import build_optimiser
from aligned_vq.training.state import load_state, save_state
from aligned_vq.types import SplitPoint
from benchmarks.kills.killing import opened_by_others
from edge_client.encoder import EdgeEncoder

_SPLIT = SplitPoint(1, "ln1")
_PLAN = CodecPlan(_SPLIT, codebook_sizes=(64, 32), codebook_dim=16)
_TRAIN_STEPS, _TRAINED_EVERY = 1000, 8


class ExportWriter:
    """One bundle exported without a graph, a graph added; another exported with a graph, that one
    replaced by one of 8 bits; and so on."""

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
        """Sometimes there is no bundle yet."""
        if rng.random() < 0.2:
            shutil.rmtree(self._out, ignore_errors=True)
            self._last = None
        return 0 if self._last is None else self._last + 1

    def write(self, step: int) -> None:
        """As the commands `export`, `export-onnx`, `export --onnx` and `export-onnx --int8` do."""
        kind = step % 4
        if kind in (1, 3):
            write_graph(self._out, int8=kind == 3)
        else:
            finish = partial(write_graph) if kind == 2 else None
            export_bundle(self._checkpoint, self._codecs[kind // 2], self._out, finish)

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """Both sides open it, it is one of the two, and another user can read all of it."""
        before = self._last if not done else first + done - 1
        recover(self._out)  # as every reader of a manifest does
        if not self._out.exists():
            return "before", [] if before is None else ["expected a bundle, got none"]
        found = self._states.index(self._state())
        allowed = {number % 4 for number in (before, first + begun - 1) if number is not None}
        faults = [] if found in allowed else [f"expected one of {allowed}, got {found}"]
        open_edge_bundle(self._out)
        open_cloud_bundle(self._out)
        if found:
            EdgeEncoder(self._out, "onnx")
        if not all(opened_by_others(self._out.iterdir())):
            faults.append("expected a bundle that others can read")
        state = "new" if begun > done and found == (first + begun - 1) % 4 else "before"
        self._last = found
        return state, faults

    def leftovers(self) -> list[str]:
        """Beside the bundle."""
        return _beside(self._out)

    def _state(self) -> tuple[str, str | None]:
        manifest = read_manifest(self._out)
        return manifest.edge_weights_digest, manifest.edge_graph_digest


class CheckpointWriter:
    """A training run's checkpoints: codec and optimiser of the reference model."""

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
        run = TrainingRun(self._config, self._out)
        self._facts = {"run": run._identity}
        self._tensors = run.learners.tensors()
        self._optimiser = build_optimiser(run.learners.model, self._config, self._config.align)
        for group in self._optimiser.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        self._optimiser.step()
        self._mark = next(name for name in self._tensors if name.startswith("link."))
        self._last: int | None = None

    def start(self, rng: np.random.Generator) -> int:
        """Sometimes there is no checkpoint yet."""
        if rng.random() < 0.2:
            shutil.rmtree(self._out / "state", ignore_errors=True)
            self._last = None
        return 0 if self._last is None else self._last + 1

    def write(self, step: int) -> None:
        """As a run does between two steps; the number of the step is in both of its files."""
        with torch.no_grad():
            self._tensors[self._mark].fill_(step)
        at = _TRAIN_STEPS - 1 - step % _TRAINED_EVERY
        facts = {**self._facts, "stage": "align", "step": at, "written": step}
        save_state(self._out / "state", facts, self._tensors, self._optimiser)

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """A run goes on from it, and now and then it is trained to its end."""
        before = self._last if not done else first + done - 1
        run = TrainingRun(self._config, self._out)
        saved = load_state(self._out / "state")
        if saved is None:
            return "before", [] if before is None else ["expected a checkpoint, got none"]
        facts, tensors = saved
        found, faults = facts["written"], []
        if found not in (before, first + begun - 1):
            faults.append(f"expected step {before} or {first + begun - 1}, got {found}")
        marks = (tensors[self._mark], run.learners.tensors()[self._mark])
        if run.at_step != facts["step"] or any(bool((mark != found).any()) for mark in marks):
            faults.append(f"expected tensors of step {found}, got others")
        if run.at_step == _TRAIN_STEPS - 1:
            shutil.rmtree(self._resumed, ignore_errors=True)
            TrainingRun(self._config, shutil.copytree(self._out, self._resumed)).train()
            ended = load_state(self._resumed / "state")
            if ended is None or ended[0]["step"] != _TRAIN_STEPS:
                faults.append("expected a run that goes on to its end")
        if not all(opened_by_others((self._out / "state").iterdir())):
            faults.append("expected a checkpoint that others can read")
        self._last = found
        return ("new" if begun > done and found == first + begun - 1 else "before"), faults

    def leftovers(self) -> list[str]:
        """Beside the checkpoint."""
        return _beside(self._out / "state")


def _beside(path: Path) -> list[str]:
    return [own.name for own in path.parent.iterdir() if path.name in own.name and own != path]
