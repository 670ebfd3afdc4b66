"""Rate fitting: entropy tables, and rate weights that meet a mean payload size."""

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

# The format allows 64 symbols. The number of contexts grows with the square of CLASSES.
SYMBOLS, CLASSES = 64, 16
STEPS = 12
"""Bisections of the logarithm of a rate weight over the full range."""
REFINE_RADIUS, REFINE_STEPS = 1.2, 6
"""Half the range, in natural logarithms, and bisections for a weight that is nearly right."""
_MIN_LOG_WEIGHT, _MAX_LOG_WEIGHT = math.log(1e-6), math.log(1e4)


def encode_all(
    codec: FeatureCodec, examples: CutFeatures, point: OperatingPoint | None = None
) -> list[Encoded]:
    """The indices of every example at an operating point; None: the default."""
    return [
        codec.encode(features, residual, point)
        for features, residual in zip(examples.features, examples.residual, strict=True)
    ]


def learn_tables(codec: FeatureCodec, examples: CutFeatures) -> EntropyTables:
    """Entropy tables learned from examples, encoded at every operating point of the codec."""
    encoded = [
        image
        for point in codec.spec.operating_points
        for image in encode_all(codec, examples, point)
    ]
    assert codec.quantizer is not None
    classes = entry_classes(codec.quantizer)
    return EntropyTables.from_examples(encoded, codec.spec.quantizer, classes)


def entry_classes(quantizer: AlignedVQ) -> list[EntryClasses]:
    """Per stage, up to SYMBOLS symbols and CLASSES classes of similar entries."""
    classes = []
    for number in range(quantizer.config.num_quantizers):
        codebooks = quantizer.codebooks.stage(number).codebooks()
        entries = [codebook.entries.detach().cpu().numpy() for codebook in codebooks]
        classes.append(
            EntryClasses(
                np.stack([clusters(table, SYMBOLS) for table in entries]).astype(np.uint16),
                np.stack([clusters(table, CLASSES) for table in entries]).astype(np.uint8),
            )
        )
    return classes


def clusters(points: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """The k-means cluster of every point `[M, d]`, as numbers `[M]` below `count`."""
    if len(points) <= count:
        return np.arange(len(points))
    centres = cluster_centres(points, count, seed=0, iterations=10)
    return np.asarray(((points[:, None] - centres[None]) ** 2).sum(-1).argmin(1))


def mean_bytes(codec: FeatureCodec, examples: CutFeatures, point: OperatingPoint) -> float:
    """Mean size in bytes of the examples' payload bodies at a point, within its limit."""
    sizes = [
        len(codec.compress(features, residual, point=point).body)
        for features, residual in zip(examples.features, examples.residual, strict=True)
    ]
    return sum(sizes) / len(sizes)


@torch.no_grad()
def mean_rate_bits(quantizer: AlignedVQ, latents: Tensor, point: OperatingPoint) -> float:
    """Mean bits of an image, estimated from the codebooks' code lengths; latents `[M, N, d]`."""
    codebooks = quantizer.codebooks
    rates = [
        codebooks.rate_bits(codebooks.encode(part, point.stages, point.rate_weight))
        # A few images at a time bound the memory for the scores of the search.
        for part in torch.split(latents, 16)
    ]
    return float(torch.cat(rates).mean())


def fit_rate_weight(
    point: OperatingPoint,
    target: float,
    measure: Callable[[OperatingPoint], float],
    log_range: tuple[float, float] = (_MIN_LOG_WEIGHT, _MAX_LOG_WEIGHT),
    steps: int = STEPS,
) -> OperatingPoint:
    """The point with the rate weight at which `measure` equals `target`.

    Args:
        point: its rate weight is replaced.
        target: in the unit of `measure`. If no weight meets it, the nearest end of the range is
            the result.
        measure: a decreasing function of the rate weight.
        log_range: of the natural logarithm of the rate weight.
        steps: number of bisections.
    """
    low, high = log_range
    for _ in range(steps):
        # Bisects the logarithm, because useful weights span many orders of magnitude.
        middle = (low + high) / 2
        if measure(replace(point, rate_weight=math.exp(middle))) > target:
            low = middle
        else:
            high = middle
    return replace(point, rate_weight=math.exp(high))  # measured at most `target`


def fit_points(
    codec: FeatureCodec,
    table_examples: CutFeatures,
    rate_examples: CutFeatures,
    points: Sequence[OperatingPoint],
    targets_bytes: dict[str, float],
    rounds: int = 2,
) -> tuple[OperatingPoint, ...]:
    """Operating points that meet their mean payload sizes; they and tables are set in `codec.spec`.

    Args:
        codec: with codebooks.
        table_examples: images from which entropy tables are learned.
        rate_examples: other images, on which sizes are measured: tables fit the images that they
            were learned from too well.
        points: those with a target are fitted.
        targets_bytes: mean payload body in bytes, by the name of the point.
        rounds: repetitions, because payload sizes depend on the tables, and the tables on the
            rate weights. The first starts from estimated code lengths.
    """
    assert codec.quantizer is not None
    quantizer = codec.quantizer
    batches = torch.split(rate_examples.features, 16)
    latents = torch.cat([quantizer.latents(batch) for batch in batches])
    fitted = list(points)
    for number, point in enumerate(points):
        if point.name in targets_bytes:
            bits = 8 * targets_bytes[point.name]
            fitted[number] = fit_rate_weight(
                point, bits, lambda p: mean_rate_bits(quantizer, latents, p)
            )
    for _ in range(rounds):
        codec.spec = replace(codec.spec, operating_points=tuple(fitted))
        # Tables before rates: payload sizes depend on the tables.
        codec.spec = replace(codec.spec, tables=learn_tables(codec, table_examples))
        for number, point in enumerate(fitted):
            if point.name in targets_bytes:
                log_weight = math.log(point.rate_weight)
                fitted[number] = fit_rate_weight(
                    point,
                    targets_bytes[point.name],
                    lambda p: mean_bytes(codec, rate_examples, p),
                    (log_weight - REFINE_RADIUS, log_weight + REFINE_RADIUS),
                    REFINE_STEPS,
                )
    codec.spec = replace(codec.spec, operating_points=tuple(fitted))
    return tuple(fitted)
