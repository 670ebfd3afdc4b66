"""The rate side of a codec: entropy tables, and rate weights that meet a mean payload size."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.bitstream import EntropyTables, EntryClasses
from aligned_vq.calibration.codec import CutFeatures
from aligned_vq.calibration.quantizer import cluster_centres
from aligned_vq.codec.feature_codec import FeatureCodec
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.types import Encoded, OperatingPoint

SYMBOLS, CLASSES = 64, 16
STEPS = 12
"""Bisections of the logarithm of a rate weight."""
NEAR, NEAR_STEPS = 1.2, 6
"""Half the range, in nats, and the bisections of a weight that is nearly right."""
_LOWEST, _HIGHEST = math.log(1e-6), math.log(1e4)


def encode_all(
    codec: FeatureCodec, examples: CutFeatures, point: OperatingPoint | None = None
) -> list[Encoded]:
    """Every example's indices at an operating point."""
    return [
        codec.encode(features, residual, point)
        for features, residual in zip(examples.features, examples.residual, strict=True)
    ]


def learn_tables(codec: FeatureCodec, examples: CutFeatures) -> EntropyTables:
    """Entropy tables from what the codec's operating points say of examples."""
    encoded = [
        one for point in codec.spec.operating_points for one in encode_all(codec, examples, point)
    ]
    assert codec.quantizer is not None
    classes = entry_classes(codec.quantizer)
    return EntropyTables.from_examples(encoded, codec.spec.quantizer, classes)


def entry_classes(quantizer: AlignedVQ) -> list[EntryClasses]:
    """Per stage, which entries are alike: up to 64 symbols, up to 16 classes for contexts."""
    config = quantizer.config
    found = []
    for number in range(config.num_quantizers):
        books = quantizer.codebooks.stage(number).codebooks()
        entries = [book.entries.detach().cpu().numpy() for book in books]
        found.append(
            EntryClasses(
                np.stack([clusters(table, SYMBOLS) for table in entries]).astype(np.uint16),
                np.stack([clusters(table, CLASSES) for table in entries]).astype(np.uint8),
            )
        )
    return found


def clusters(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """For every point `[M, d]` the number of its k-means cluster, all below `count`."""
    if len(points) <= count:
        return np.arange(len(points))
    centres = cluster_centres(points, count, seed=0, iterations=10)
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1))


def mean_bytes(codec: FeatureCodec, examples: CutFeatures, point: OperatingPoint) -> float:
    """Mean payload body of examples at a point, as they would be sent, its limit kept."""
    sizes = [
        len(codec.compress(features, residual, point=point).body)
        for features, residual in zip(examples.features, examples.residual, strict=True)
    ]
    return sum(sizes) / len(sizes)


@torch.no_grad()
def mean_rate_bits(quantizer: AlignedVQ, latents: Tensor, point: OperatingPoint) -> float:
    """Estimated bits of an image from the codebooks' own code lengths; latents `[M, N, d]`."""
    books = quantizer.codebooks
    rates = [
        books.rate_bits(books.encode(part, point.stages, point.rate_weight))
        for part in torch.split(latents, 16)
    ]
    return float(torch.cat(rates).mean())


def fit_rate_weight(
    point: OperatingPoint,
    target: float,
    measure: Callable[[OperatingPoint], float],
    within: tuple[float, float] = (_LOWEST, _HIGHEST),
    steps: int = STEPS,
) -> OperatingPoint:
    """The point with the rate weight at which `measure` (falling with the weight) meets `target`.

    A target that no weight meets gives the nearest end of the range; `within` is that range, in
    logarithms of the weight.
    """
    low, high = within
    for _ in range(steps):
        middle = (low + high) / 2
        if measure(replace(point, rate_weight=math.exp(middle))) > target:
            low = middle
        else:
            high = middle
    return replace(point, rate_weight=math.exp(high))


def fit_points(
    codec: FeatureCodec,
    learned_from: CutFeatures,
    examples: CutFeatures,
    points: Sequence[OperatingPoint],
    targets_bytes: dict[str, float],
    rounds: int = 2,
) -> tuple[OperatingPoint, ...]:
    """Operating points that meet their mean bytes, and tables for them (put into `codec.spec`).

    Rates follow from the tables and tables from the rates, hence rounds; the first starts from the
    estimate by code lengths. Tables are learned from other examples than rates are fitted on: on
    its own, a table codes too well.
    """
    assert codec.quantizer is not None
    quantizer = codec.quantizer
    latents = torch.cat([quantizer.latents(part) for part in torch.split(examples.features, 16)])
    fitted = list(points)
    for number, point in enumerate(points):
        if point.name in targets_bytes:
            bits = 8 * targets_bytes[point.name]
            fitted[number] = fit_rate_weight(
                point, bits, lambda p: mean_rate_bits(quantizer, latents, p)
            )
    for _ in range(rounds):
        codec.spec = replace(codec.spec, operating_points=tuple(fitted))
        codec.spec = replace(codec.spec, tables=learn_tables(codec, learned_from))
        for number, point in enumerate(fitted):
            if point.name in targets_bytes:
                about = math.log(point.rate_weight)
                fitted[number] = fit_rate_weight(
                    point,
                    targets_bytes[point.name],
                    lambda p: mean_bytes(codec, examples, p),
                    (about - NEAR, about + NEAR),
                    NEAR_STEPS,
                )
    codec.spec = replace(codec.spec, operating_points=tuple(fitted))
    return tuple(fitted)
