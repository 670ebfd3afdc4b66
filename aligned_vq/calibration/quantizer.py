"""A usable codec without gradients: position means, PCA, faiss k-means, least squares."""

from __future__ import annotations

from collections.abc import Sequence

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.errors import ConfigError
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.quantizer.residual import GroupedCodebook
from aligned_vq.split.residual_link import LearnedLink, ResidualLink

VECTORS_PER_ENTRY = 24
"""k-means samples at most this many latents per entry; beyond it, more change little."""


def calibrate(
    quantizer: AlignedVQ,
    link: ResidualLink,
    features: Tensor,
    residual: Tensor,
    chains: Sequence[Sequence[int]] | None = None,
    shares: Sequence[float] = (),
    seed: int = 0,
    iterations: int = 20,
) -> None:
    """Fill a quantizer and its link from examples, in place.

    Args:
        quantizer: its projections, means and codebooks are overwritten.
        link: fitted if it is learned, left alone otherwise.
        features: LayerNorm outputs `[M, N, D]` of M images.
        residual: the residual stream at the same place, `[M, N, D]`.
        chains: stages that follow one another, each chain starting from the latents; by default
            one chain of all stages. The output projections are fitted to the last chain.
        shares: of the tokens, those with the largest remaining error, that each stage learns from;
            1 where not given.
        seed: of k-means.
        iterations: of k-means.

    Raises:
        ConfigError: fewer latents than codebook entries, or features that are not finite.
    """
    config = quantizer.config
    chains = chains or (tuple(range(config.num_quantizers)),)
    count = features.shape[0] * features.shape[1]
    learned_from = [
        int(count * (shares[s] if s < len(shares) else 1.0)) for s in range(config.num_quantizers)
    ]
    for stage, size in enumerate(config.codebook_sizes):
        if learned_from[stage] < size:
            raise ConfigError(
                f"calibration needs at least {size} tokens for the codebook of stage {stage}, "
                f"got {learned_from[stage]}: give more images"
            )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError("calibration features hold NaN or infinity: check the checkpoint")
    with torch.no_grad():
        quantizer.position_mean.copy_(features.mean(0))
        centred = (features - quantizer.position_mean).flatten(0, 1)
        quantizer.project_down.weight.copy_(principal_axes(centred, config.codebook_dim))
        latents = quantizer.latents(features).flatten(0, 1)
        if quantizer.refiner is not None:
            quantizer.refiner.scale.copy_(latents.std(0))
        remaining = latents
        for chain in chains:
            remaining = latents.clone()
            for number in chain:
                book = quantizer.codebooks.stage(number)
                rows = remaining.square().sum(1).topk(learned_from[number]).indices
                fill_stage(book, remaining[rows], seed, iterations)
                remaining[rows] -= book.decode(book.encode(remaining[rows]))
        latents_hat = latents - remaining
        quantizer.project_up.weight.copy_(least_squares(latents_hat, centred))
        if isinstance(link, LearnedLink):
            link.position_mean.copy_(residual.mean(0))
            deviation = (residual - link.position_mean).flatten(0, 1)
            link.project.weight.copy_(least_squares(latents_hat, deviation))


def fill_stage(stage: GroupedCodebook, latents: Tensor, seed: int, iterations: int = 20) -> None:
    """Entries by k-means over latents `[M, d]`, and how often each is used."""
    parts = latents.chunk(len(stage.groups), dim=-1)
    for codebook, part in zip(stage.codebooks(), parts, strict=True):
        size = len(codebook.entries)
        entries = cluster_centres(part.contiguous().cpu().numpy(), size, seed, iterations)
        codebook.entries.copy_(torch.from_numpy(entries))
        used = torch.bincount(codebook.encode(part), minlength=size).float()
        codebook.usage.copy_(used + 0.1 * used.mean())  # a rare entry keeps a price one can pay


def principal_axes(centred: Tensor, count: int) -> Tensor:
    """The `count` directions of largest variance, `[count, D]`, of centred rows `[M, D]`."""
    covariance = centred.T.double() @ centred.double() / len(centred)
    _, vectors = torch.linalg.eigh(covariance)
    axes: Tensor = vectors[:, -count:].flip(1).T
    return axes.to(centred.dtype)


def cluster_centres(
    points: NDArray[np.float32], count: int, seed: int, iterations: int
) -> NDArray[np.float32]:
    """k-means centres `[count, d]` of points `[M, d]`."""
    kmeans = faiss.Kmeans(
        points.shape[1],
        count,
        niter=iterations,
        seed=seed,
        min_points_per_centroid=1,
        max_points_per_centroid=VECTORS_PER_ENTRY,
    )
    kmeans.train(np.ascontiguousarray(points, np.float32))
    return np.asarray(kmeans.centroids, np.float32).reshape(count, points.shape[1])


def least_squares(inputs: Tensor, outputs: Tensor, ridge: float = 1e-4) -> Tensor:
    """The matrix `[D, d]` that maps inputs `[M, d]` to outputs `[M, D]` best."""
    x, y = inputs.double(), outputs.double()
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solution.T.to(inputs.dtype)
