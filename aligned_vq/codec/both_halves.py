"""A bundle's codec with both halves in one process, for training and evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import suffix_names
from aligned_vq.split.vision import VisionPrefix


class WholeBundle(NamedTuple):
    """Both sides of a bundle in float32 on the CPU, frozen."""

    manifest: SplitManifest
    prefix: VisionPrefix
    """That of rgb."""
    codec: FeatureCodec


def open_whole_bundle(directory: str | Path, checkpoint: LlavaCheckpoint) -> WholeBundle:
    """Both sides of a bundle that was made from a checkpoint.

    Raises:
        ConfigError: a file is missing, does not match its digest, or has an unsupported schema; or
            the bundle was made from other vision weights.
    """
    folder = Path(directory)
    edge, cloud = open_edge_bundle(folder), open_cloud_bundle(folder)
    check_made_from(folder, edge.manifest, checkpoint)
    quantizer = cloud.codec.quantizer
    if quantizer is not None:
        assert edge.codec.quantizer is not None
        # What the cloud's half leaves on the meta device.
        quantizer.project_down = edge.codec.quantizer.project_down
    codec = FeatureCodec(edge.codec.spec, quantizer, cloud.codec.link)
    return WholeBundle(edge.manifest, edge.prefix, codec)


def check_made_from(folder: Path, manifest: SplitManifest, checkpoint: LlavaCheckpoint) -> None:
    """Raise ConfigError unless a bundle's vision tower is that of a checkpoint."""
    names = suffix_names(checkpoint, manifest.split)
    # The name of a checkpoint does not prove its weights.
    if manifest.vision_digest != checkpoint.vision_digest(names):
        raise ConfigError(
            f"{folder}: expected a bundle of {checkpoint.source}, got one of {manifest.model_id} "
            "with other vision weights; use it with the checkpoint that it was made from"
        )
