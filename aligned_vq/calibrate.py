"""From a checkpoint and some pictures to a calibrated bundle."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aligned_vq.bitstream import EntropyTables
from aligned_vq.bundle import write_bundle
from aligned_vq.codec import CodecSpec, FeatureCodec
from aligned_vq.errors import ConfigError
from aligned_vq.manifest import SplitManifest
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.quantizer.calibration import calibrate
from aligned_vq.split.checkpoint import LlavaCheckpoint
from aligned_vq.split.residual_link import ResidualLink, build_link, link_norm_names
from aligned_vq.split.vision import VisionPrefix, VisionSuffix, build_prefix, tensor_names
from aligned_vq.types import LinkKind, QuantizerConfig, SplitPoint

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CodecPlan:
    """What to build at which cut."""

    split: SplitPoint
    link: LinkKind = "learned"
    codebook_sizes: tuple[int, ...] = (4096,)
    codebook_dim: int = 32
    num_groups: int = 1
    stage_shares: tuple[float, ...] = ()
    identity: bool = False
    """Send raw features instead of indices: the reference that loses nothing."""

    def quantizer(self, dim: int) -> QuantizerConfig:
        """The quantizer's geometry for features of width `dim`."""
        if self.identity:
            return QuantizerConfig(dim, dim, (), kind="identity")
        return QuantizerConfig(dim, self.codebook_dim, self.codebook_sizes, self.num_groups)


class CutFeatures(NamedTuple):
    """Examples at a cut, `[M, N, D]` float32 each."""

    features: Tensor
    residual: Tensor


class CalibratedCodec(NamedTuple):
    """A codec and the parts it was made of, ready to be written as a bundle."""

    codec: FeatureCodec
    manifest: SplitManifest
    norms: dict[str, Tensor]
    link: ResidualLink


def load_prefix(
    checkpoint: LlavaCheckpoint, split: SplitPoint, dtype: torch.dtype | None = torch.float32
) -> VisionPrefix:
    """The edge half of a checkpoint's tower; dtype None keeps the stored one."""
    checkpoint.tower.check_split(split)
    with torch.device("meta"):
        names = tensor_names(VisionPrefix(checkpoint.tower.vision, split))
    tensors = checkpoint.vision_tensors(names)
    if dtype is not None:
        tensors = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    return build_prefix(checkpoint.tower.vision, split, tensors)


def suffix_names(checkpoint: LlavaCheckpoint, split: SplitPoint) -> list[str]:
    """The checkpoint tensors that run behind the cut."""
    with torch.device("meta"):
        return tensor_names(VisionSuffix(checkpoint.tower, split))


def pixel_batches(
    checkpoint: LlavaCheckpoint, images: Iterable[Image], size: int = 8
) -> Iterator[Tensor]:
    """Images through the checkpoint's own processor, `[B, 3, H, W]` float32."""
    from transformers import AutoImageProcessor

    processor = AutoImageProcessor.from_pretrained(checkpoint.directory(), use_fast=False)
    batch: list[Image] = []
    for image in images:
        batch.append(image.convert("RGB"))
        if len(batch) == size:
            yield processor(images=batch, return_tensors="pt")["pixel_values"].float()
            batch = []
    if batch:
        yield processor(images=batch, return_tensors="pt")["pixel_values"].float()


@torch.inference_mode()
def features_at(prefix: VisionPrefix, batches: Iterable[Tensor]) -> CutFeatures:
    """Features and residual stream of many images at the prefix's cut."""
    pairs = [prefix(batch) for batch in batches]
    if not pairs:
        raise ConfigError("calibration needs images, got none")
    return CutFeatures(
        torch.cat([features for features, _ in pairs]).clone(),
        torch.cat([residual for _, residual in pairs]).clone(),
    )


def calibrate_codec(
    checkpoint: LlavaCheckpoint, plan: CodecPlan, examples: CutFeatures, seed: int = 0
) -> CalibratedCodec:
    """A codec for one cut, calibrated on examples; nothing is written."""
    norms = checkpoint.vision_tensors(link_norm_names(plan.split))
    tower = checkpoint.tower
    config = plan.quantizer(tower.vision.hidden_size)
    codebook_dim = None if plan.identity else config.codebook_dim
    link = build_link(plan.link, plan.split, tower.features(), codebook_dim, norms)
    quantizer = None
    if not plan.identity:
        quantizer = AlignedVQ(tower.features(), config)
        calibrate(quantizer, link, examples.features, examples.residual, seed)
        quantizer.eval().requires_grad_(False)
    manifest = SplitManifest(
        model_id=checkpoint.model_id,
        model_revision=checkpoint.revision,
        vision_digest=checkpoint.vision_digest(suffix_names(checkpoint, plan.split)),
        tower=tower,
        processor=checkpoint.processor(),
        split=plan.split,
        quantizer=config,
        link=plan.link,
        edge_weights_digest="",
        cloud_weights_digest="",
        entropy_digest=None,
        stage_shares=plan.stage_shares,
    )
    spec = CodecSpec(
        digest=manifest.digest(),
        features=manifest.features,
        quantizer=config,
        statistics=link.needs_statistics,
        layer_norm_eps=tower.vision.layer_norm_eps,
    )
    codec = FeatureCodec(spec, quantizer, link.eval().requires_grad_(False))
    if quantizer is not None:
        encoded = [
            codec.encode(features, residual, shares=plan.stage_shares)
            for features, residual in zip(examples.features, examples.residual, strict=True)
        ]
        tables = EntropyTables.from_examples(encoded, config)
        codec.spec = replace(spec, tables=tables)
    return CalibratedCodec(codec, manifest, norms, link)


def with_link(calibrated: CalibratedCodec, kind: LinkKind) -> CalibratedCodec:
    """The same codebooks with another link that needs no fitting."""
    manifest = replace(calibrated.manifest, link=kind)
    quantizer, norms = calibrated.codec.quantizer, calibrated.norms
    dim = None if quantizer is None else manifest.quantizer.codebook_dim
    link = build_link(kind, manifest.split, manifest.features, dim, norms)
    spec = replace(
        calibrated.codec.spec, digest=manifest.digest(), statistics=link.needs_statistics
    )
    return CalibratedCodec(FeatureCodec(spec, quantizer, link.eval()), manifest, norms, link)


def export_bundle(
    checkpoint: LlavaCheckpoint, calibrated: CalibratedCodec, directory: str | Path
) -> SplitManifest:
    """Write a calibrated codec and the checkpoint's prefix as a bundle; returns its manifest."""
    manifest = calibrated.manifest
    prefix = load_prefix(checkpoint, manifest.split, dtype=None)
    codec = calibrated.codec
    return write_bundle(
        directory,
        manifest,
        prefix,
        calibrated.norms,
        codec.quantizer,
        calibrated.link,
        codec.spec.tables,
    )
