"""A usable codec without gradients: position means, PCA, faiss k-means, least squares."""

from __future__ import annotations

import faiss
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from aligned_vq.errors import ConfigError
from aligned_vq.quantizer.aligned import AlignedVQ
from aligned_vq.split.residual_link import LearnedLink, ResidualLink

VECTORS_PER_ENTRY = 24
"""k-means samples at most this many latents per entry; beyond it, more change little."""


def calibrate(
    quantizer: AlignedVQ,
    link: ResidualLink,
    features: Tensor,
    residual: Tensor,
    seed: int = 0,
    iterations: int = 20,
) -> None:
    """Fill a quantizer and its link from examples, in place.

    Args:
        quantizer: its projections, means and codebooks are overwritten.
        link: fitted if it is learned, left alone otherwise.
        features: LayerNorm outputs `[M, N, D]` of M images.
        residual: the residual stream at the same place, `[M, N, D]`.
        seed: of k-means.
        iterations: of k-means.

    Raises:
        ConfigError: fewer latents than codebook entries, or features that are not finite.
    """
    config = quantizer.config
    count = features.shape[0] * features.shape[1]
    if count < max(config.codebook_sizes):
        raise ConfigError(
            f"calibration needs at least {max(config.codebook_sizes)} tokens for its largest "
            f"codebook, got {count}: give more images"
        )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError("calibration features hold NaN or infinity: check the checkpoint")
    with torch.no_grad():
        quantizer.position_mean.copy_(features.mean(0))
        centred = (features - quantizer.position_mean).flatten(0, 1)
        quantizer.project_down.weight.copy_(principal_axes(centred, config.codebook_dim))
        latents = quantizer.latents(features)
        remaining = latents.flatten(0, 1).clone()
        for number in range(config.num_quantizers):
            stage = quantizer.codebooks.stage(number)
            parts = remaining.chunk(config.num_groups, dim=-1)
            for codebook, part in zip(stage.codebooks(), parts, strict=True):
                entries = cluster_centres(part.numpy(), len(codebook.entries), seed, iterations)
                codebook.entries.copy_(torch.from_numpy(entries))
            remaining -= stage.decode(stage.encode(remaining))
        latents_hat = latents.flatten(0, 1) - remaining
        quantizer.project_up.weight.copy_(least_squares(latents_hat, centred))
        if isinstance(link, LearnedLink):
            link.position_mean.copy_(residual.mean(0))
            deviation = (residual - link.position_mean).flatten(0, 1)
            link.project.weight.copy_(least_squares(latents_hat, deviation))


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
