"""Stages one and two: the vision tower learns to classify what each patch shows.

The first stage trains on windows of 10 x 10 patches around an object, with the position embeddings
of their place in the image: a window costs a sixth of a whole image and shows mostly the object.
The second trains on whole images.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from aligned_vq.data.scenes.patches import (
    GRID,
    NUM_PATCHES,
    PATCH_PX,
    TARGET_DIM,
    PatchTargets,
    dense_loss,
    patch_targets,
)
from aligned_vq.data.scenes.pool import ScenePool
from aligned_vq.reference.stage import Stage, train_stage
from aligned_vq.training.loop import Loss

# CLIP's mean and standard deviation of each channel, 0 to 1.
MEAN = torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(1, 3, 1, 1)
STD = torch.tensor([0.26862954, 0.26130258, 0.27577711]).view(1, 3, 1, 1)
BACKGROUND_WEIGHT = 0.15
WINDOW_PATCHES = 10


class DenseTower(nn.Module):
    """The CLIP tower up to the hidden state that LLaVA selects, with linear heads on each patch."""

    def __init__(self, tower: CLIPVisionModel) -> None:
        super().__init__()
        self.tower = tower
        self.norm = nn.LayerNorm(tower.config.hidden_size)
        self.heads = nn.Linear(tower.config.hidden_size, TARGET_DIM)

    def features(self, pixels: Tensor, positions: Tensor | None = None) -> Tensor:
        """Selected patch features `[B, P, D]` of normalised pixels `[B, 3, h, w]`.

        `positions` `[B, P]` names each patch's place in the 24 x 24 grid (default: all).
        """
        embeddings = self.tower.embeddings
        patches = embeddings.patch_embedding(pixels).flatten(2).transpose(1, 2)  # [B, P, D]
        table = embeddings.position_embedding.weight
        # Row 0 of the table belongs to the class token.
        placed = table[1:][None] if positions is None else table[1:][positions]
        first = (embeddings.class_embedding + table[0]).expand(len(pixels), 1, -1)
        hidden = self.tower.pre_layrnorm(torch.cat([first, patches + placed], dim=1))
        # LLaVA selects hidden state -2, for which the last layer need not run.
        for layer in self.tower.encoder.layers[:-1]:
            hidden = layer(hidden, None)
        patches_only: Tensor = hidden[:, 1:]
        return patches_only

    def forward(self, pixels: Tensor, positions: Tensor | None = None) -> Tensor:
        """Logits of the heads, `[B, P, TARGET_DIM]`."""
        logits: Tensor = self.heads(self.norm(self.features(pixels, positions)))
        return logits


class DenseBatch(NamedTuple):
    """A batch of either stage; `positions` is None for whole images."""

    pixels: Tensor
    positions: Tensor | None
    targets: PatchTargets
    weight: Tensor


def train_vision(
    tower: CLIPVisionModel,
    pool: ScenePool,
    windows: Stage,
    whole: Stage,
    workdir: Path,
) -> DenseTower:
    """Train on windows, then on whole images; returns the tower and its heads in eval mode."""
    device = next(tower.parameters()).device
    dense = DenseTower(tower).to(device)
    dense.train()

    def window_batch(step: int) -> DenseBatch:
        return _window_batch(pool, np.random.default_rng([1, step]), windows.batch_size)

    def whole_batch(step: int) -> DenseBatch:
        rng = np.random.default_rng([2, step])
        indices = rng.integers(0, pool.count, whole.batch_size)
        targets = patch_targets(pool.labels(indices))
        weight = torch.where(targets.shape > 0, 1.0, BACKGROUND_WEIGHT)
        return DenseBatch(image_batch(pool, indices), None, targets, weight)

    def loss_of(batch: DenseBatch) -> Loss:
        places = None if batch.positions is None else batch.positions.to(device)
        logits = dense(batch.pixels.to(device), places).float()
        return dense_loss(logits, _to(batch.targets, device), batch.weight.to(device))

    train_stage(windows, dense, window_batch, loss_of, workdir)
    train_stage(whole, dense, whole_batch, loss_of, workdir)
    return dense.eval()


def image_batch(pool: ScenePool, indices: np.ndarray) -> Tensor:
    """Whole images of the pool, normalised, `[B, 3, 336, 336]`."""
    return _normalised(np.stack([pool.pixels(int(index)) for index in indices]))


def _window_batch(
    pool: ScenePool, rng: np.random.Generator, count: int, side: int = WINDOW_PATCHES
) -> DenseBatch:
    """Windows around random objects; patches of objects centred outside have weight 0."""
    indices = rng.integers(0, pool.count, count)
    labels = pool.labels(indices)
    # Classes count from 1, and a scene with fewer objects ends with zeros.
    numbers = (labels.attributes[:, :, 0] > 0).sum(1)
    chosen = rng.integers(0, numbers)
    middle = labels.place * GRID  # x, y in patches
    # (x, y) reversed to (row, column), centred on the object and shifted at random.
    about = middle[np.arange(count), chosen, ::-1] - side / 2 + rng.uniform(-3, 3, (count, 2))
    corners = np.clip(about.round().astype(int), 0, GRID - side)
    cut, positions = [], []
    grid = np.arange(NUM_PATCHES).reshape(GRID, GRID)
    for index, (top, left) in zip(indices, corners, strict=True):
        rows = slice(top * PATCH_PX, (top + side) * PATCH_PX)
        columns = slice(left * PATCH_PX, (left + side) * PATCH_PX)
        cut.append(pool.pixels(int(index))[rows, columns])
        positions.append(grid[top : top + side, left : left + side].ravel())
    places = torch.from_numpy(np.stack(positions))
    whole = patch_targets(labels)
    targets = PatchTargets(
        *(torch.stack([field[row, place] for row, place in enumerate(places)]) for field in whole)
    )
    # Whether the centre of each object lies in the window, [B, 5].
    inside = np.all(
        (middle >= corners[:, None, ::-1]) & (middle < corners[:, None, ::-1] + side), -1
    )
    owner = np.take_along_axis(labels.owner, places.numpy(), 1).astype(np.int64)
    # -1 cannot be an index; background gets another weight below.
    judged = np.take_along_axis(inside, np.maximum(owner, 0), 1)
    weight = np.where(owner < 0, BACKGROUND_WEIGHT, judged.astype(np.float32))
    return DenseBatch(_normalised(np.stack(cut)), places, targets, torch.from_numpy(weight).float())


def _normalised(pixels: np.ndarray) -> Tensor:
    batch = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    return (batch - MEAN) / STD


def _to(targets: PatchTargets, device: torch.device) -> PatchTargets:
    return PatchTargets(*(field.to(device) for field in targets))
