"""Features that the cloud holds of images: rebuilt from payloads, or not quantized at all."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from aligned_vq.calibration.codec import (
    CodecPlan,
    CutFeatures,
    calibrate_codec,
    features_at,
    pixel_batches,
)
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.feature_codec import CloudCodec, EdgeCodec
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import OperatingPoint, SplitPoint
from benchmarks.leakage.settings import LeakageSettings

CALIBRATED, UNQUANTIZED = "calibrated", "none"
"""Names of codecs other than the shipped one: the prefix of those calibrated here, and the name for
features without a codec."""
_BATCH = 16


@dataclass(frozen=True, eq=False)
class CloudFeatures:
    """Features of all images but those for calibration, at one cut and from one codec."""

    cut: str
    codec: str
    """An operating point of the shipped one; `CALIBRATED` and bits per token; or `UNQUANTIZED`."""
    features: Tensor
    """`[M, N, D]` float16."""
    sizes_bytes: list[int]
    """Of each image's payload body; of its float16 features where there is no codec."""


def cloud_features(
    checkpoint: LlavaCheckpoint, images: Sequence[Image.Image], settings: LeakageSettings
) -> Iterator[CloudFeatures]:
    """Features for every cut and codec of the settings; the first images are for calibration.

    Raises:
        ConfigError: the tower has no such cut, or the shipped bundle no such operating point.
    """
    shipped = open_edge_bundle(BUNDLE)
    shipped_cut = str(shipped.manifest.split)
    cuts = [*settings.cuts, *([shipped_cut] if settings.points else [])]
    # Each cut once, as its features serve every codec.
    for cut in dict.fromkeys(cuts):
        split = SplitPoint.parse(cut)
        prefix = load_prefix(checkpoint, split)
        # Batches of eight images, rounded up.
        total = -(-len(images) // 8)
        batches = tqdm(pixel_batches(checkpoint, images), f"prefix {cut}", total, leave=False)
        whole = features_at(prefix, batches)  # [M, N, D] each
        first = CutFeatures(*(part[: settings.first_pictures] for part in whole))
        rest = CutFeatures(*(part[settings.first_pictures :] for part in whole))
        if settings.unquantized:
            # Half of the memory; the decoder computes in float32 in any case.
            features = rest.features.half()
            raw_bytes = features[0].numel() * features.element_size()
            yield CloudFeatures(cut, UNQUANTIZED, features, [raw_bytes] * len(features))
        if cut in settings.cuts:
            plan = CodecPlan(split, codebook_sizes=settings.codebook_sizes)
            codec = calibrate_codec(checkpoint, plan, first, settings.seed).codec
            for point in reversed(plan.operating_points):
                # Of one token: the logarithm of how many combinations of indices it has.
                bits = math.log2(math.prod(plan.codebook_sizes[stage] for stage in point.stages))
                name = f"{CALIBRATED} {bits:g} bits"
                yield CloudFeatures(cut, name, *through(codec, codec, rest, point))
        if cut == shipped_cut and settings.points:
            cloud = open_cloud_bundle(BUNDLE).codec
            for name in settings.points:
                yield CloudFeatures(cut, name, *through(shipped.codec, cloud, rest, name))


def through(
    edge: EdgeCodec, cloud: CloudCodec, examples: CutFeatures, point: OperatingPoint | str
) -> tuple[Tensor, list[int]]:
    """Features `[M, N, D]` float16 rebuilt from payloads of the examples, and the bodies' bytes."""
    encoded, sizes = [], []
    pairs = zip(*examples, strict=True)
    for features, residual in tqdm(pairs, "payloads", len(examples.features), leave=False):
        payload = edge.compress(features, residual, point=point)
        sizes.append(len(payload.body))
        encoded.append(cloud.unpack(payload))
    rebuilt = [
        # The features only; in batches, as all of them in float32 take twice the memory.
        cloud.decode_many(encoded[start : start + _BATCH])[0].half()
        for start in range(0, len(encoded), _BATCH)
    ]
    return torch.cat(rebuilt), sizes
