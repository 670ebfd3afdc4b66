"""Calibration of a codec on example images, and export as a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from aligned_vq.bitstream import EntropyTables
from aligned_vq.calibration.quantizer import CalibrationSettings, calibrate
from aligned_vq.codec.bundle import BundleContent, write_bundle
from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.codec.spec import CodecSpec
from aligned_vq.errors import ConfigError
from aligned_vq.images.preprocess import preprocess_batch
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.loading import load_prefix, suffix_names
from aligned_vq.split.residual_link import ResidualLink, build_link, link_norm_names
from aligned_vq.split.vision import VisionPrefix
from aligned_vq.types import LinkKind, OperatingPoint, QuantizerConfig, SplitPoint

if TYPE_CHECKING:
    from PIL.Image import Image


@dataclass(frozen=True)
class CodecPlan:
    """The cut, geometry and operating points of a codec."""

    split: SplitPoint
    link: LinkKind = "learned"
    codebook_sizes: tuple[int, ...] = (4096,)
    codebook_dim: int = 32
    num_groups: int = 1
    refiner_blocks: int = 0
    refiner_width: int = 128
    points: tuple[OperatingPoint, ...] = ()
    """The operating points; empty: all stages for every token, then one stage less each."""
    stage_shares: tuple[float, ...] = ()
    """Fraction of tokens that each stage is calibrated on, those with the largest remaining
    error."""
    identity: bool = False
    """Send raw features instead of indices: a lossless baseline."""

    @property
    def operating_points(self) -> tuple[OperatingPoint, ...]:
        """`points`, or `fixed` with all stages followed by `fixed-r` with the first r stages."""
        if self.points or self.identity:
            return self.points
        stages = tuple(range(len(self.codebook_sizes)))
        prefixes = [OperatingPoint(f"fixed-{r}", stages[:r]) for r in reversed(stages) if r]
        return (OperatingPoint("fixed", stages), *prefixes)

    @property
    def chains(self) -> tuple[tuple[int, ...], ...]:
        """The stage sequences of the operating points that are not a prefix of another, the longest
        last."""
        # Longest first, so that a prefix is compared with the chain that contains it.
        longest_first = sorted(
            {point.stages for point in self.operating_points}, key=lambda s: (-len(s), s)
        )
        chains: list[tuple[int, ...]] = []
        for stages in longest_first:
            if not any(chain[: len(stages)] == stages for chain in chains):
                chains.append(stages)
        return tuple(reversed(chains))

    def calibration(self, seed: int) -> CalibrationSettings:
        """The settings with which the quantizer is calibrated."""
        return CalibrationSettings(self.chains, self.stage_shares, seed)

    def quantizer(self, dim: int) -> QuantizerConfig:
        """The quantizer's geometry for features of width `dim`."""
        if self.identity:
            return QuantizerConfig(dim, dim, (), kind="identity")
        return QuantizerConfig(
            dim,
            self.codebook_dim,
            self.codebook_sizes,
            self.num_groups,
            refiner_blocks=self.refiner_blocks,
            refiner_width=self.refiner_width,
        )


class CutFeatures(NamedTuple):
    """Features and residual stream of M images at a cut, float32 `[M, N, D]` each."""

    features: Tensor
    residual: Tensor


class CodecParts(NamedTuple):
    """The modules of a codec."""

    quantizer: AlignedVQ | None
    """None: the identity quantizer."""
    link: ResidualLink
    norms: dict[str, Tensor]
    """The tower's LayerNorm tensors that links need (`link_norm_names`)."""


class CalibratedCodec(NamedTuple):
    """A codec and its parts, ready to be written as a bundle."""

    codec: FeatureCodec
    manifest: SplitManifest
    norms: dict[str, Tensor]
    link: ResidualLink


def pixel_batches(
    checkpoint: LlavaCheckpoint, images: Iterable[Image], size: int = 8
) -> Iterator[Tensor]:
    """Batches of images prepared with the checkpoint's processor, float32 `[B, 3, H, W]`."""
    settings = checkpoint.processor()
    # One iterator for all batches: each `islice` continues where the last one ended.
    remaining = iter(images)
    while batch := list(islice(remaining, size)):
        yield torch.from_numpy(preprocess_batch(batch, settings))


@torch.inference_mode()
def features_at(prefix: VisionPrefix, batches: Iterable[Tensor]) -> CutFeatures:
    """Features and residual stream of all images at the prefix's cut."""
    pairs = [prefix(batch) for batch in batches]
    if not pairs:
        raise ConfigError("expected images for calibration, got none")
    return CutFeatures(
        torch.cat([features for features, _ in pairs]),
        torch.cat([residual for _, residual in pairs]),
    )


def calibrate_codec(
    checkpoint: LlavaCheckpoint, plan: CodecPlan, examples: CutFeatures, seed: int = 0
) -> CalibratedCodec:
    """A codec calibrated on examples, with static entropy tables; nothing is written."""
    parts = blank_codec(checkpoint, plan)
    quantizer = parts.quantizer
    if quantizer is not None:
        features, residual = examples
        calibrate(quantizer, parts.link, features, residual, plan.calibration(seed))
        quantizer.eval().requires_grad_(False)
    calibrated = assemble(checkpoint, plan, parts, plan.operating_points)
    codec = calibrated.codec
    if quantizer is not None:
        # All operating points share one set of tables.
        encoded = [
            codec.encode(features, residual, point)
            for point in plan.operating_points
            for features, residual in zip(examples.features, examples.residual, strict=True)
        ]
        tables = EntropyTables.from_examples(encoded, quantizer.config)
        codec.spec = replace(codec.spec, tables=tables)
    return calibrated


def blank_codec(checkpoint: LlavaCheckpoint, plan: CodecPlan) -> CodecParts:
    """The modules of a plan's codec, not calibrated."""
    tower = checkpoint.tower
    tower.check_split(plan.split)
    config = plan.quantizer(tower.vision.hidden_size)
    norms = checkpoint.vision_tensors(link_norm_names(plan.split))
    codebook_dim = None if plan.identity else config.codebook_dim
    link = build_link(plan.link, plan.split, tower.features(), codebook_dim, norms)
    quantizer = None if plan.identity else AlignedVQ(tower.features(), config)
    return CodecParts(quantizer, link, norms)


def assemble(
    checkpoint: LlavaCheckpoint,
    plan: CodecPlan,
    parts: CodecParts,
    points: tuple[OperatingPoint, ...],
    tables: EntropyTables | None = None,
) -> CalibratedCodec:
    """A codec of these parts with its manifest; `tables` None: fixed coding only."""
    tower = checkpoint.tower
    manifest = SplitManifest(
        model_id=checkpoint.model_id,
        model_revision=checkpoint.revision,
        vision_digest=checkpoint.vision_digest(suffix_names(checkpoint, plan.split)),
        tower=tower,
        processor=checkpoint.processor(),
        split=plan.split,
        quantizer=plan.quantizer(tower.vision.hidden_size),
        link=plan.link,
        # Digests are filled in when the bundle is written.
        edge_weights_digest="",
        cloud_weights_digest="",
        entropy_digest=None,
        operating_points=points,
    )
    spec = CodecSpec(
        # Provisional, because the manifest's digests of weights are still empty.
        digest=manifest.digest(),
        features=manifest.features,
        quantizer=manifest.quantizer,
        statistics=parts.link.needs_statistics,
        layer_norm_eps=tower.vision.layer_norm_eps,
        tables=tables,
        operating_points=points,
    )
    codec = FeatureCodec(spec, parts.quantizer, parts.link.eval().requires_grad_(False))
    return CalibratedCodec(codec, manifest, parts.norms, parts.link)


def with_link(calibrated: CalibratedCodec, kind: LinkKind) -> CalibratedCodec:
    """The same codec with a link of another kind, one that has no learned weights."""
    manifest = replace(calibrated.manifest, link=kind)
    quantizer, norms = calibrated.codec.quantizer, calibrated.norms
    dim = None if quantizer is None else manifest.quantizer.codebook_dim
    link = build_link(kind, manifest.split, manifest.features, dim, norms)
    spec = replace(
        calibrated.codec.spec, digest=manifest.digest(), statistics=link.needs_statistics
    )
    return CalibratedCodec(FeatureCodec(spec, quantizer, link.eval()), manifest, norms, link)


def export_bundle(
    checkpoint: LlavaCheckpoint,
    calibrated: CalibratedCodec,
    directory: str | Path,
    finish: Callable[[Path], object] | None = None,
) -> SplitManifest:
    """Write a calibrated codec and the checkpoint's prefix as a bundle; returns its manifest.

    `finish` and errors are those of `write_bundle`.
    """
    manifest = calibrated.manifest
    # As stored, so that the bundle has the checkpoint's precision.
    prefix = load_prefix(checkpoint, manifest.split, dtype=None)
    codec = calibrated.codec
    content = BundleContent(
        manifest=manifest,
        prefix=prefix,
        norms=calibrated.norms,
        quantizer=codec.quantizer,
        link=calibrated.link,
        tables=codec.spec.tables,
    )
    return write_bundle(directory, content, finish)
