"""From the state of a run to a codec that can be examined and a bundle that can be shipped."""

from __future__ import annotations

import logging
from pathlib import Path

import torch

from aligned_vq.calibration.codec import (
    CalibratedCodec,
    CodecParts,
    CutFeatures,
    assemble,
    export_bundle,
)
from aligned_vq.calibration.rate import fit_points
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.llava.checkpoint_digest import FILES
from aligned_vq.split.residual_link import link_norm_names
from aligned_vq.training.lora import adapter_changes
from aligned_vq.training.run import TrainingRun

TABLE_IMAGES, FITTING_IMAGES = 320, 96
"""Pictures from which entropy tables are learned, and others on which rate weights are fitted."""
_log = logging.getLogger(__name__)


def trained_codec(run: TrainingRun, checkpoint: LlavaCheckpoint | None = None) -> CalibratedCodec:
    """The run's codec with operating points that meet their mean bytes, and entropy tables.

    Args:
        run: calibrated at least.
        checkpoint: what the manifest names; by default the one the run was given.

    Raises:
        ConfigError: the run has not even been calibrated.
    """
    if run.at_stage == "calibrate" and run.plan.codebook_sizes:
        raise ConfigError(f"{run.out}: expected a run that has begun, found none; train it first")
    checkpoint = checkpoint or run.checkpoint
    model = run.learners.model
    model.link.cpu()  # but not the language model
    quantizer = model.quantizer
    if quantizer is not None:
        quantizer.cpu().eval().requires_grad_(False)
    norms = checkpoint.vision_tensors(link_norm_names(run.plan.split))
    points = run.plan.operating_points
    parts = CodecParts(quantizer, model.link, norms)
    plain = assemble(checkpoint, run.plan, parts, points)
    if quantizer is None:
        return plain
    targets = {
        name: point.mean_bytes
        for name, point in run.config.codec.points.items()
        if point.mean_bytes is not None
    }
    # The last of the source: they calibrated the codec only where there are few.
    examples = run.examples(TABLE_IMAGES + FITTING_IMAGES, last=True)
    images = len(examples.features)
    _log.info("fitting entropy tables and rates on %d pictures", images)
    kept = max(1, images * FITTING_IMAGES // (TABLE_IMAGES + FITTING_IMAGES))
    others = CutFeatures(*(t[: images - kept] if images > kept else t for t in examples))
    fitting = CutFeatures(*(t[-kept:] for t in examples))
    fitted = fit_points(plain.codec, others, fitting, points, targets)
    tables = plain.codec.spec.tables
    return assemble(checkpoint, run.plan, parts, fitted, tables)


def export_run(run: TrainingRun, bundle: Path) -> SplitManifest:
    """Write the run's bundle; with adapters, first the checkpoint that they were merged into."""
    checkpoint = merged_checkpoint(run) if run.config.lora.rank else run.checkpoint
    calibrated = trained_codec(run, checkpoint=checkpoint)
    return export_bundle(checkpoint, calibrated, bundle)


def merged_checkpoint(run: TrainingRun) -> LlavaCheckpoint:
    """The run's LLaVA with the adapters inside its weights, saved under `checkpoint/`.

    The edge half stays as it was: adapters are behind the cut.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = run.out / "checkpoint"
    source = run.checkpoint.directory()
    # As stored: what is not adapted stays the same to the bit, whatever training computed in.
    whole = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto")
    places = {
        "suffix": whole.model.vision_tower,
        "projector": whole.model.multi_modal_projector,
        "language_model": whole.model.language_model,
    }
    for target in run.config.lora.targets:
        weights = dict(places[target].named_parameters())
        for path, change in adapter_changes(run.learners.model, target).items():
            name = f"{path}.weight"
            # Some releases of transformers hold the tower in another module.
            weight = weights[name if name in weights else f"vision_model.{name}"]
            with torch.no_grad():
                weight.copy_(weight.float() + change.cpu())
    with new_folder(folder, FILES) as new:
        whole.save_pretrained(new)
        AutoProcessor.from_pretrained(source, use_fast=False).save_pretrained(new)
    return LlavaCheckpoint(folder)
