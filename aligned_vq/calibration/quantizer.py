"""Calibration of a quantizer: position means, PCA, k-means (faiss) and least squares."""

from __future__ import annotations

from dataclasses import dataclass

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
"""Maximum number of latents per entry that k-means samples; more of them change little."""


@dataclass(frozen=True)
class CalibrationSettings:
    """How the codebooks of `calibrate` are fitted."""

    chains: tuple[tuple[int, ...], ...] = ()
    """Stage sequences, each starting from the latents; empty: one sequence of all stages. The
    output projections are fitted to the last one."""
    shares: tuple[float, ...] = ()
    """Fraction of tokens that each stage is fitted to, those with the largest remaining error; 1
    for stages beyond the end."""
    seed: int = 0
    """Of k-means."""
    iterations: int = 20
    """Of k-means."""

    def share(self, stage: int) -> float:
        """The fraction of tokens that a stage is fitted to."""
        return self.shares[stage] if stage < len(self.shares) else 1.0


_DEFAULTS = CalibrationSettings()


def calibrate(
    quantizer: AlignedVQ,
    link: ResidualLink,
    features: Tensor,
    residual: Tensor,
    settings: CalibrationSettings = _DEFAULTS,
) -> None:
    """Fit a quantizer and its link to examples, in place.

    Args:
        quantizer: its projections, means and codebooks are overwritten.
        link: fitted if it is a LearnedLink, unchanged otherwise.
        features: LayerNorm outputs `[M, N, D]` of M images.
        residual: the residual stream at the cut, `[M, N, D]`.
        settings: stage sequences, fractions of tokens, and k-means.

    Raises:
        ConfigError: fewer latents than codebook entries, or features that are not finite.
    """
    config = quantizer.config
    chains = settings.chains or (tuple(range(config.num_quantizers)),)
    count = features.shape[0] * features.shape[1]
    num_fitted = [int(count * settings.share(stage)) for stage in range(config.num_quantizers)]
    for stage, size in enumerate(config.codebook_sizes):
        if num_fitted[stage] < size:
            raise ConfigError(
                f"calibration needs at least {size} tokens for the codebook of stage {stage}, "
                f"got {num_fitted[stage]}: give more images"
            )
    if not bool(torch.isfinite(features).all()):
        raise ConfigError(
            "expected finite calibration features, got NaN or infinity: check the checkpoint"
        )
    with torch.no_grad():
        quantizer.position_mean.copy_(features.mean(0))  # [N, D]
        centred = (features - quantizer.position_mean).flatten(0, 1)  # [M * N, D]
        quantizer.project_down.weight.copy_(principal_axes(centred, config.codebook_dim))
        latents = quantizer.latents(features).flatten(0, 1)
        if quantizer.refiner is not None:
            quantizer.refiner.scale.copy_(latents.std(0))
        remaining = latents
        for chain in chains:
            remaining = latents.clone()  # changed in place below
            for number in chain:
                stage_books = quantizer.codebooks.stage(number)
                rows = remaining.square().sum(1).topk(num_fitted[number]).indices
                fill_stage(stage_books, remaining[rows], settings.seed, settings.iterations)
                remaining[rows] -= stage_books.decode(stage_books.encode(remaining[rows]))
        # Of the last chain, which is the longest of a `CodecPlan`.
        latents_hat = latents - remaining
        quantizer.project_up.weight.copy_(least_squares(latents_hat, centred))
        if isinstance(link, LearnedLink):
            link.position_mean.copy_(residual.mean(0))
            deviation = (residual - link.position_mean).flatten(0, 1)
            link.project.weight.copy_(least_squares(latents_hat, deviation))


def fill_stage(stage: GroupedCodebook, latents: Tensor, seed: int, iterations: int = 20) -> None:
    """Set a stage's entries by k-means over latents `[M, d]`, and their usage, in place."""
    parts = latents.chunk(len(stage.groups), dim=-1)
    for codebook, part in zip(stage.codebooks(), parts, strict=True):
        size = len(codebook.entries)
        entries = cluster_centres(part.contiguous().cpu().numpy(), size, seed, iterations)
        codebook.entries.copy_(torch.from_numpy(entries))
        used = torch.bincount(codebook.encode(part), minlength=size).float()
        # Smoothed: with a very long code, an unused entry would never be selected again.
        codebook.usage.copy_(used + 0.1 * used.mean())


def principal_axes(centred: Tensor, count: int) -> Tensor:
    """The `count` directions of largest variance `[count, D]` of centred rows `[M, D]`."""
    # In float64: a float32 sum over all tokens would lose digits.
    covariance = centred.T.double() @ centred.double() / len(centred)
    _, vectors = torch.linalg.eigh(covariance)
    axes: Tensor = vectors[:, -count:].flip(1).T  # eigenvalues ascend
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
        # Below this number faiss prints a warning; callers check the number of points.
        min_points_per_centroid=1,
        max_points_per_centroid=VECTORS_PER_ENTRY,
    )
    kmeans.train(np.ascontiguousarray(points, np.float32))
    return np.asarray(kmeans.centroids, np.float32).reshape(count, points.shape[1])


def least_squares(inputs: Tensor, outputs: Tensor, ridge: float = 1e-4) -> Tensor:
    """The matrix `[D, d]` that minimises the squared error from inputs `[M, d]` to outputs
    `[M, D]`."""
    x, y = inputs.double(), outputs.double()
    gram = x.T @ x
    # Ridge regularisation relative to the inputs' scale: solvable even if they are dependent.
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    solution: Tensor = torch.linalg.solve(gram, x.T @ y)
    return solution.T.to(inputs.dtype)
