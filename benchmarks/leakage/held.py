"""What the cloud holds of pictures: features rebuilt from payloads, or the features themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

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
from aligned_vq.types import SplitPoint
from benchmarks.leakage.settings import LeakageSettings

CALIBRATED, UNQUANTIZED = "calibrated", "none"
"""Codecs beside the shipped one: how the names of those that are calibrated here begin, and what
stands for features as they are."""
_BATCH = 16


@dataclass(frozen=True, eq=False)
class Held:
    """Features at a cut as the cloud has them, of all pictures but those for calibration."""

    cut: str
    codec: str
    """The shipped one's operating point; `CALIBRATED` and bits a token; or `UNQUANTIZED`."""
    features: Tensor
    """`[M, N, D]` float16."""
    sizes_bytes: list[int]
    """Of each picture's payload body; of float16 features where there is no codec."""


def held_features(
    checkpoint: LlavaCheckpoint, pictures: Sequence[Image.Image], settings: LeakageSettings
) -> Iterator[Held]:
    """Cut by cut what the cloud has of `pictures`, with each codec that is asked for.

    The first ones are for calibration.

    Raises:
        ConfigError: the tower has no such cut, or the shipped bundle no such operating point.
    """
    shipped = open_edge_bundle(BUNDLE)
    shipped_cut = str(shipped.manifest.split)
    own_cut = [shipped_cut] if settings.points else []
    for cut in dict.fromkeys([*settings.cuts, *own_cut]):
        split = SplitPoint.parse(cut)
        prefix = load_prefix(checkpoint, split)
        total = -(-len(pictures) // 8)
        batches = tqdm(pixel_batches(checkpoint, pictures), f"prefix {cut}", total, leave=False)
        whole = features_at(prefix, batches)
        first = CutFeatures(*(part[: settings.first_pictures] for part in whole))
        rest = CutFeatures(*(part[settings.first_pictures :] for part in whole))
        if settings.unquantized:
            features = rest.features.half()
            raw_bytes = features[0].numel() * features.element_size()
            yield Held(cut, UNQUANTIZED, features, [raw_bytes] * len(features))
        if cut in settings.cuts:
            plan = CodecPlan(split, codebook_sizes=settings.codebook_sizes)
            codec = calibrate_codec(checkpoint, plan, first, settings.seed).codec
            for point in reversed(plan.operating_points):
                bits = math.log2(math.prod(plan.codebook_sizes[stage] for stage in point.stages))
                yield through(codec, codec, rest, cut, f"{CALIBRATED} {bits:g} bits", point=point)
        if cut == shipped_cut and settings.points:
            cloud = open_cloud_bundle(BUNDLE).codec
            for name in settings.points:
                yield through(shipped.codec, cloud, rest, cut, name, point=name)


def through(
    edge: EdgeCodec, cloud: CloudCodec, examples: CutFeatures, cut: str, codec: str, **how: Any
) -> Held:
    """Every example as a payload, and what is rebuilt from it; `how` is given on to `compress`."""
    encoded, sizes = [], []
    pairs = zip(*examples, strict=True)
    for features, residual in tqdm(pairs, f"{cut} {codec}", len(examples.features), leave=False):
        payload = edge.compress(features, residual, **how)
        sizes.append(len(payload.body))
        encoded.append(cloud.unpack(payload))
    rebuilt = [
        cloud.decode_many(encoded[start : start + _BATCH])[0].half()
        for start in range(0, len(encoded), _BATCH)
    ]
    return Held(cut, codec, torch.cat(rebuilt), sizes)
