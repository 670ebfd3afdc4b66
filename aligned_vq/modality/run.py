"""One run: the teacher sees the colour images, the prefix learns, the bundle gets its edge half.

out/lessons/        what is learned from, if it was stored
out/prefix/         state, losses and scores
out/logs/           TensorBoard
out/bundle/         the bundle with the modality
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator

from aligned_vq.codec.both_halves import open_whole_bundle
from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.data.views import open_views
from aligned_vq.edgevl.stage import StudentStage
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_file import write_json
from aligned_vq.graph.modality_bundle import write_modality
from aligned_vq.images.preparation import Preparation
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.modality.distillation import PrefixDistillation
from aligned_vq.modality.lessons import DecodedLessons, Lesson, Lessons, Teacher, Texts
from aligned_vq.modality.stored import stored
from aligned_vq.modality.validation import SELECTION, PrefixValidation
from aligned_vq.shipped import bundle_source, checkpoint_source
from aligned_vq.split.loading import load_suffix
from aligned_vq.split.vision import VisionPrefix
from aligned_vq.training.config import CodebookConfig
from aligned_vq.training.loop import LoopSettings
from aligned_vq.training.model import SplitModel
from aligned_vq.training.modules import load_answer_model
from aligned_vq.training.state import claim_folder

_NAME = "prefix"


class FrozenParts(NamedTuple):
    """Everything of a run that does not learn."""

    manifest: SplitManifest
    model: SplitModel
    """The rgb prefix, the codec and the rest of the model, on one device."""
    codec: FeatureCodec
    """The model's codec, as device and cloud use it."""


class ModalityRun:
    """A run in a folder, on one process.

    Args:
        config: of the run.
        out: the run's folder, made if it is missing.

    Raises:
        ConfigError: unreadable data, bundle or checkpoint, which do not belong together, several
            processes, or `out` holds another run.
        InvalidInput: an image cannot be used.
    """

    def __init__(self, config: ModalityRunConfig, out: Path) -> None:
        self.config = config
        self.out = out
        self.bundle = bundle_source(config.bundle)
        self.accelerator = _new_accelerator(out)
        self.frozen = load_frozen(config, self.accelerator.device)
        self.teacher = Teacher(self.frozen.model, config.bfloat16)
        claim_folder(out, config, self.frozen.manifest.digest().hex())
        data = config.data
        parts = open_views(
            data.train,
            config.modality,
            data.questions,
            data.questions_per_image,
            data.validation_share,
        )
        packer = self.frozen.model.packer
        assert packer is not None
        preparation = Preparation(self.frozen.manifest.processor, config.modality, data.range())
        self.prefix = _new_student(self.frozen.model.prefix)
        self._decoded = [DecodedLessons(part, Texts(packer), preparation) for part in parts]

    def train(self) -> dict[str, float]:
        """The prefix learns, or goes on; `prefix` then has the selected weights.

        Returns:
            The scores of these weights, see `PrefixValidation`, and their step.

        Raises:
            InvalidInput: an image cannot be used.
            TrainingError: a loss or gradient is not finite; the last checkpoint stays.
            OSError: a file cannot be written; the checkpoint before stays.
            KeyboardInterrupt: stopped by a signal; the state was saved after a whole step.
        """
        folder = self.out / _NAME
        folder.mkdir(parents=True, exist_ok=True)
        training, validation = (
            stored(lessons, self.teacher, self.out / "lessons" / name, self.config.data.cache_mib)
            for lessons, name in zip(self._decoded, ("train", "validation"), strict=True)
        )
        self.accelerator.init_trackers("logs")
        scores = self._stage(training, validation, folder).run()
        self.accelerator.end_training()
        write_json(folder / "scores.json", {"scores": scores})
        return max(scores, key=lambda one: one[SELECTION])

    def export(self) -> SplitManifest:
        """Write the bundle with an edge half of the trained prefix to `out/bundle`."""
        ranges = self.config.data.range()
        out = self.out / "bundle"
        return write_modality(self.bundle, self.prefix, self.config.modality, ranges, out)

    def _stage(self, training: Lessons, validation: Lessons, folder: Path) -> StudentStage[Lesson]:
        config, points = self.config, self.frozen.manifest.operating_points
        settings = LoopSettings(
            _NAME,
            config.steps,
            config.warmup_steps,
            save_every_steps=config.save_every,
            bfloat16=config.bfloat16,
        )
        # Without weight decay, as the codec.
        optimiser = torch.optim.AdamW(
            self.prefix.parameters(), config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0
        )
        return StudentStage(
            settings,
            self.accelerator,
            self.prefix,
            optimiser,
            PrefixDistillation(training, self.teacher, points, config),
            PrefixValidation(validation, self.teacher, self.frozen.codec, config),
            config.validate_every,
            folder,
            config.seed,
            SELECTION,
        )


def load_frozen(config: ModalityRunConfig, device: torch.device) -> FrozenParts:
    """The frozen model around the bundle's codec, on a device.

    Raises:
        ConfigError: checkpoint or bundle cannot be read, or do not belong together; or the bundle
            has the identity quantizer.
    """
    checkpoint = LlavaCheckpoint(checkpoint_source(config.checkpoint), config.revision)
    folder = bundle_source(config.bundle)
    manifest, prefix, codec = open_whole_bundle(folder, checkpoint)
    if codec.quantizer is None:
        raise ConfigError(
            f"{folder}: expected a bundle with codebooks, got the identity quantizer, which sends "
            "features as they are; name another bundle"
        )
    half = device.type == "cuda" and config.bfloat16
    answering = load_answer_model(checkpoint, torch.bfloat16 if half else torch.float32)
    # Entries do not learn; gradients are copied past them.
    codebooks = CodebookConfig(update="ema", estimator="straight_through")
    suffix = load_suffix(checkpoint, manifest.split)
    model = SplitModel(prefix, codec.quantizer, codec.link, suffix, answering, codebooks)
    model = model.to(device).eval().requires_grad_(False)
    return FrozenParts(manifest, model, codec)


def _new_student(prefix: VisionPrefix) -> VisionPrefix:
    """A copy of a prefix, to be trained."""
    return copy.deepcopy(prefix).requires_grad_(True)


def _new_accelerator(out: Path) -> Accelerator:
    accelerator = Accelerator(
        # Explicit, because accelerate may choose other devices than the CPU without CUDA.
        cpu=not torch.cuda.is_available(),
        log_with="tensorboard",
        project_dir=str(out),
    )
    if accelerator.num_processes > 1:
        raise ConfigError(
            f"expected one process, got {accelerator.num_processes}: a prefix is small; start the "
            "command without a launcher"
        )
    return accelerator
