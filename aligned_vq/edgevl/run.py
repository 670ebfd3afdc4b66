"""One run: curation, distillation, quantisation-aware training; resumable at every step.

out/pairs/              decoded images
out/pseudo_labels.csv   curation; edit or remove it to change what is kept
out/confidence.png      histogram of the teacher's confidence
out/distill/, contrast/ state, losses and scores of the stages
out/logs/               TensorBoard
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator, InitProcessGroupKwargs
from torch import Tensor, nn

from aligned_vq.data.crops import whole_images
from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.split import hold_out
from aligned_vq.data.pairs.types import PairSource
from aligned_vq.data.rooms.examples import all_labels
from aligned_vq.dual_encoder.checkpoint import DualEncoder
from aligned_vq.dual_encoder.prompts import prompt, read_labels
from aligned_vq.edgevl.config import StudentRunConfig
from aligned_vq.edgevl.curation import (
    PseudoLabels,
    curate,
    plot_confidence,
    read_pseudo_labels,
)
from aligned_vq.edgevl.imitator import Imitator
from aligned_vq.edgevl.objectives import Contrast, Distillation, Share, StudentData, teacher_pixels
from aligned_vq.edgevl.pool import PairArrays
from aligned_vq.edgevl.preparation import prepare_pairs
from aligned_vq.edgevl.quantization.student import QuantizedStudent
from aligned_vq.edgevl.scoring import Validation, probabilities_of
from aligned_vq.edgevl.stage import StudentStage
from aligned_vq.edgevl.students.build import Student
from aligned_vq.edgevl.students.choice import choose_student, new_student
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_json
from aligned_vq.images.depth import check_range
from aligned_vq.images.modality import CAMERA_MODALITIES, Modality
from aligned_vq.lqa.statistics import ChannelStatistics
from aligned_vq.shipped import dual_encoder_source
from aligned_vq.training.loop import LoopSettings
from aligned_vq.training.stage import check_shared
from aligned_vq.training.state import claim_folder

START_HOURS = 3
"""Limit of the other processes' wait while one decodes the images."""
_CALIBRATION_BATCH = 32
_log = logging.getLogger(__name__)


class StudentRun:
    """A run in a folder.

    Args:
        config: of the run.
        out: the run's folder, made if it is missing.

    Raises:
        ConfigError: unreadable data, teacher or settings, or `out` holds another run.
        InvalidInput: an image or label cannot be used.
    """

    def __init__(self, config: StudentRunConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.labels = (
            all_labels() if config.pairs.labels == "rooms" else read_labels(config.pairs.labels)
        )
        self.accelerator = _new_accelerator(out)
        source = dual_encoder_source(config.teacher)
        self.teacher = DualEncoder(source, device=str(self.accelerator.device))
        pairs = open_pairs(config.pairs.train, "train")
        self.modality: Modality = pairs.modality
        self.student_config, self.prepare = choose_student(config.student, self.teacher)
        _check_batches(config, self.accelerator.num_processes)
        if self.modality in CAMERA_MODALITIES:
            check_range(self.modality, config.pairs.range())
        self._check_sides()
        claim_folder(out, config, self.teacher.digest(), write=self.accelerator.is_main_process)
        self.accelerator.wait_for_everyone()
        training, validation = hold_out(pairs, config.pairs.validation_share)
        # One process decodes the images; the others read its result.
        with self.accelerator.main_process_first():
            self.training = self._prepared(training, "train")
            self.validation = self._prepared(validation, "validation")
            self.texts = self.teacher.text_embeddings(
                [prompt(label, config.pairs.template) for label in self.labels]
            ).cpu()
            self.pseudo = self._pseudo_labels()
        self._check_curation()
        self.data = self._student_data()

    def distill(self) -> Student:
        """Stage 1: the student in float32, with the weights that validation selected."""
        config = self.config.distill
        student = new_student(self.student_config, self.teacher, self.config.seed)
        student = student.to(self.accelerator.device)
        if config.steps:
            settings = LoopSettings(
                "distill", config.steps, config.warmup_steps, bfloat16=config.bfloat16
            )
            width = self.teacher.token_width if config.tokens else None
            imitator = Imitator(student, width, self.config.seed).to(self.accelerator.device)
            optimiser = torch.optim.AdamW(
                imitator.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
            self._run(settings, imitator, student, optimiser, Distillation(self.data, config))
        return student.eval()

    def quantize(self, student: Student) -> QuantizedStudent:
        """Stage 2: the student with int8 arithmetic; with 0 steps quantised after training."""
        config = self.config.contrast
        quantized = QuantizedStudent(student).to(self.accelerator.device)
        quantized.calibrate(self._calibration_batches())
        for narrow in quantized.narrow_ranges():
            _log.warning(
                "%s: %s uses %.0f %% of the range of the other modality and is rounded coarsely",
                narrow.layer,
                narrow.modality,
                100 * narrow.share,
            )
        if config.steps:
            settings = LoopSettings("contrast", config.steps, config.warmup_steps)
            optimiser = torch.optim.AdamW(
                quantized.parameters(), config.learning_rate, weight_decay=config.weight_decay
            )
            objective = Contrast(self.data, config, self.config.distill)
            self._run(settings, quantized, quantized, optimiser, objective)
        return quantized.eval()

    @cached_property
    def validate(self) -> Validation:
        """Scores a student on the pairs that were held out."""
        targets = (self._teacher_images(self.validation) @ self.texts.T).argmax(1)
        return Validation(self.validation, targets, self.texts, self.prepare)

    def _run(
        self,
        settings: LoopSettings,
        trained: nn.Module,
        student: nn.Module,
        optimiser: torch.optim.Optimizer,
        objective: Distillation | Contrast,
    ) -> None:
        """Train a module in place; the student in it is what is validated."""
        folder = self.out / settings.name
        folder.mkdir(parents=True, exist_ok=True)
        self.accelerator.init_trackers("logs")
        stage: StudentStage[Any] = StudentStage(
            settings,
            self.accelerator,
            trained,
            optimiser,
            objective,
            lambda _: self.validate(student),
            self.config.validate_every,
            folder,
            self.config.seed,
            validates_start=True,  # training may only make it worse
        )
        scores = stage.run()
        self.accelerator.free_memory()  # the next stage wraps another model
        if self.accelerator.is_main_process:
            write_json(folder / "scores.json", {"scores": scores})

    def _prepared(self, source: PairSource, name: str) -> PairArrays:
        folder = self.out / "pairs" / name
        return prepare_pairs(source, folder, self.config.pairs.side_px, self.config.pairs.range())

    def _pseudo_labels(self) -> PseudoLabels:
        path = self.out / "pseudo_labels.csv"
        if path.exists():
            return read_pseudo_labels(path)
        texts = dict(zip(self.labels, self.texts, strict=True))
        scale = self.teacher.logit_scale
        images = self._teacher_images(self.training)
        pseudo = curate(self.training.names, images, texts, scale, self.config.pairs.keep)
        pseudo.write(path)
        plot_confidence(pseudo, self.out / "confidence")
        return pseudo

    def _teacher_images(self, pairs: PairArrays) -> Tensor:
        parts = [
            self.teacher.image_embeddings(
                teacher_pixels(self.teacher, pairs, chosen, whole_images(len(chosen)))
            ).cpu()
            for chosen in np.array_split(np.arange(len(pairs)), max(1, len(pairs) // 64))
        ]
        return torch.cat(parts)

    def _check_sides(self) -> None:
        """Log a warning if images are kept with fewer pixels than are looked at."""
        kept, seen = self.config.pairs.side_px, self.teacher.preparation.output_size[0]
        largest = max(seen, self.student_config.image_size)
        if kept < largest:
            _log.warning(
                "pairs.side_px %d is below the %d px that teacher or student see: images are "
                "enlarged; raise it",
                kept,
                largest,
            )

    def _check_curation(self) -> None:
        """Log what is kept; ConfigError if no triplets can come of it."""
        kept = int(self.pseudo.kept.sum())
        _log.info("kept %d of %d pairs", kept, len(self.pseudo.kept))
        counts = self.pseudo.counts()
        for label, count in counts.items():
            _log.info("%6d %s", count, label)
        used = [label for label, count in counts.items() if count]
        absent = [label for label in self.labels if label not in used]
        if absent:
            _log.warning("no pair is kept of: %s", ", ".join(absent))
        contrast = self.config.contrast
        if len(used) < 2 and contrast.steps and contrast.triplets:
            raise ConfigError(
                f"expected kept pairs of 2 labels or more, got {len(used)}: triplets need images "
                "of other labels; give other pairs or labels, or keep more"
            )

    def _student_data(self) -> StudentData:
        numbers = {label: number for number, label in enumerate(self.labels)}
        if self.pseudo.names != tuple(self.training.names) or set(self.pseudo.labels) - set(
            numbers
        ):
            raise ConfigError(
                f"{self.out / 'pseudo_labels.csv'} is of other pairs or labels than this run's; "
                "remove it to curate again"
            )
        return StudentData(
            self.training,
            np.flatnonzero(self.pseudo.kept),
            torch.tensor([numbers[label] for label in self.pseudo.labels]),
            self.teacher,
            self.prepare,
            self.config.pairs,
            self.config.seed,
            Share(self.accelerator.process_index, self.accelerator.num_processes),
        )

    def teacher_probabilities(self) -> Tensor:
        """What the teacher says of the validation part's colour images: `[N, L]`, by label."""
        images = self._teacher_images(self.validation)
        return probabilities_of(images, self.texts, self.teacher.logit_scale)

    def rgb_statistics(self) -> ChannelStatistics:
        """Channel statistics of the colour images that the activation ranges come from."""
        batches = (batch["rgb"].cpu().numpy() for batch in self._calibration_batches())
        return ChannelStatistics.of(image for batch in batches for image in batch)

    def _calibration_batches(self) -> Iterator[Mapping[Modality, Tensor]]:
        count = self.config.contrast.calibration_pairs
        # Spread evenly: data are often sorted by their labels.
        places = np.linspace(0, len(self.data.chosen) - 1, min(count, len(self.data.chosen)))
        chosen = self.data.chosen[places.round().astype(int)]
        for part in np.array_split(chosen, max(1, len(chosen) // _CALIBRATION_BATCH)):
            crops = whole_images(len(part))
            yield {
                "rgb": self.prepare.rgb(self.training, part, crops).to(self.accelerator.device),
                self.modality: self.prepare.other(self.training, part, crops).to(
                    self.accelerator.device
                ),
            }


def _check_batches(config: StudentRunConfig, processes: int) -> None:
    if config.distill.steps:
        check_shared("distill.batch_size", config.distill.batch_size, processes)
    if config.contrast.steps:
        check_shared("contrast.anchors", config.contrast.anchors, processes)


def _new_accelerator(out: Path) -> Accelerator:
    return Accelerator(
        # Explicit, because processes without a GPU would not form a group otherwise.
        cpu=not torch.cuda.is_available(),
        log_with="tensorboard",
        project_dir=str(out),
        kwargs_handlers=[InitProcessGroupKwargs(timeout=timedelta(hours=START_HOURS))],
    )
