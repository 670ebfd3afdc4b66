"""From the state of a run to a codec for evaluation and a bundle for release."""

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
from aligned_vq.checkpoints.digest import FILES
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.residual_link import link_norm_names
from aligned_vq.training.lora import adapter_changes
from aligned_vq.training.run import TrainingRun

TABLE_IMAGES, FITTING_IMAGES = 320, 96
"""Images from which entropy tables are learned, and others on which rate weights are fitted."""
_log = logging.getLogger(__name__)


def trained_codec(run: TrainingRun, checkpoint: LlavaCheckpoint | None = None) -> CalibratedCodec:
    """The run's codec with operating points that meet their mean bytes, and entropy tables.

    Args:
        run: calibrated at least.
        checkpoint: named by the manifest; by default the run's frozen one.

    Raises:
        ConfigError: the run is not calibrated yet.
    """
    if run.at_stage == "calibrate" and run.plan.codebook_sizes:
        raise ConfigError(f"{run.out}: expected a run that has begun, found none; train it first")
    checkpoint = checkpoint or run.checkpoint
    model = run.modules.model
    model.link.cpu()  # the language model stays on its device
    quantizer = model.quantizer
    if quantizer is not None:
        # On the CPU, where the features of the examples are.
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
    # From the end of the source: in a small one, some of them calibrated the codec as well.
    examples = run.examples(TABLE_IMAGES + FITTING_IMAGES, last=True)
    images = len(examples.features)
    _log.info("fitting entropy tables and rates on %d images", images)
    # A source with fewer images is divided in the same proportion.
    held_out = max(1, images * FITTING_IMAGES // (TABLE_IMAGES + FITTING_IMAGES))
    others = CutFeatures(*(t[: images - held_out] if images > held_out else t for t in examples))
    fitting = CutFeatures(*(t[-held_out:] for t in examples))
    fitted = fit_points(plain.codec, others, fitting, points, targets)
    tables = plain.codec.spec.tables
    return assemble(checkpoint, run.plan, parts, fitted, tables)


def export_run(run: TrainingRun, bundle: Path) -> SplitManifest:
    """Write the run's bundle; with adapters, first the checkpoint with the adapters merged."""
    # The manifest names the checkpoint whose weights the cloud must load.
    checkpoint = merged_checkpoint(run) if run.config.lora.rank else run.checkpoint
    calibrated = trained_codec(run, checkpoint=checkpoint)
    return export_bundle(checkpoint, calibrated, bundle)


def merged_checkpoint(run: TrainingRun) -> LlavaCheckpoint:
    """The run's LLaVA with the adapters merged into its weights, saved under `checkpoint/`.

    The edge half is unchanged: adapters are behind the cut.
    """
    from transformers import AutoProcessor, LlavaForConditionalGeneration

    folder = run.out / "checkpoint"
    source = run.checkpoint.directory()
    # In the stored dtype, so that weights without adapters stay the same to the bit.
    whole = LlavaForConditionalGeneration.from_pretrained(source, dtype="auto")
    places = {
        "suffix": whole.model.vision_tower,
        "projector": whole.model.multi_modal_projector,
        "language_model": whole.model.language_model,
    }
    for target in run.config.lora.targets:
        weights = dict(places[target].named_parameters())
        for path, change in adapter_changes(run.modules.model, target).items():
            name = f"{path}.weight"
            # Some releases of transformers hold the tower in another module.
            weight = weights[name if name in weights else f"vision_model.{name}"]
            with torch.no_grad():
                # Added in float32 and rounded once, to the stored dtype.
                weight.copy_(weight.float() + change.cpu())
    with new_folder(folder, FILES) as new:
        whole.save_pretrained(new)
        # `use_fast=False`: the Pillow-backed processor, which `images.preprocess` reproduces.
        AutoProcessor.from_pretrained(source, use_fast=False).save_pretrained(new)
    return LlavaCheckpoint(folder)
