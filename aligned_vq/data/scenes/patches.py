"""What each of the 24 x 24 patches shows: the dense targets that teach the vision tower.

Question answering alone is too thin a signal for a tower with random weights; telling it the shape,
colour, size and place of the object under every patch makes it learn in minutes.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from aligned_vq.data.scenes.scene import COLOURS, IMAGE_SIZE_PX, MAX_OBJECTS, SHAPES, SIZES, Scene

PATCH_PX = 14
GRID = IMAGE_SIZE_PX // PATCH_PX
NUM_PATCHES = GRID * GRID
MIN_COVER = 0.25  # of a patch's pixels, for the patch to belong to an object
PLACE_RATES = (1.0, 2.0, 4.0)
_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)  # 0 is background
PLACE_DIM = 4 * len(PLACE_RATES)
TARGET_DIM = sum(_CLASSES) + 1 + PLACE_DIM


class SceneLabels(NamedTuple):
    """Compact labels of one scene."""

    owner: NDArray[np.int8]
    """Object seen in each patch, -1 for background, `[576]`."""
    centre: NDArray[np.bool_]
    """Whether an object's centre lies in the patch, `[576]`."""
    attributes: NDArray[np.int8]
    """Class of shape, colour and size per object, from 1, `[5, 3]`."""
    place: NDArray[np.float32]
    """Centre of each object as x, y in 0 to 1, `[5, 2]`."""


class PatchTargets(NamedTuple):
    """Dense targets of a batch; class 0 is background."""

    shape: Tensor
    colour: Tensor
    size: Tensor
    centre: Tensor
    place: Tensor
    """Sines and cosines of the owner's centre, zero for background, `[B, P, 12]`."""

    def vector(self) -> Tensor:
        """All targets as one vector per patch, `[B, P, TARGET_DIM]` float32."""
        classes = (self.shape, self.colour, self.size)
        parts = [F.one_hot(c, n).float() for c, n in zip(classes, _CLASSES, strict=True)]
        return torch.cat([*parts, self.centre[..., None].float(), self.place], dim=-1)


def label_scene(scene: Scene, object_map: NDArray[np.int8] | None) -> SceneLabels:
    """Labels from a rendering's object map, or from geometry alone when it is None."""
    owner = _owner_by_discs(scene) if object_map is None else _owner_by_pixels(object_map)
    centre = np.zeros(NUM_PATCHES, np.bool_)
    attributes = np.zeros((MAX_OBJECTS, 3), np.int8)
    place = np.zeros((MAX_OBJECTS, 2), np.float32)
    colours = list(COLOURS)
    for number, item in enumerate(scene.objects):
        patch = int(item.y_px // PATCH_PX) * GRID + int(item.x_px // PATCH_PX)
        centre[patch] = True
        owner[patch] = number  # the centre counts even where a ring is hollow
        attributes[number] = (
            SHAPES.index(item.shape) + 1,
            colours.index(item.colour) + 1,
            SIZES.index(item.size) + 1,
        )
        place[number] = (item.x_px / IMAGE_SIZE_PX, item.y_px / IMAGE_SIZE_PX)
    return SceneLabels(owner, centre, attributes, place)


def patch_targets(labels: SceneLabels) -> PatchTargets:
    """Targets of a batch from stacked labels (every field with a leading batch axis)."""
    owner = torch.from_numpy(labels.owner).long()
    inside = owner >= 0
    index = owner.clamp(min=0)
    attributes = torch.from_numpy(labels.attributes).long()
    picked = torch.gather(attributes, 1, index[..., None].expand(-1, -1, 3)) * inside[..., None]
    xy = torch.gather(torch.from_numpy(labels.place), 1, index[..., None].expand(-1, -1, 2))
    waves = torch.cat(
        [f(xy * rate * math.pi) for rate in PLACE_RATES for f in (torch.sin, torch.cos)], -1
    )
    return PatchTargets(
        shape=picked[..., 0],
        colour=picked[..., 1],
        size=picked[..., 2],
        centre=torch.from_numpy(labels.centre),
        place=waves * inside[..., None],
    )


def dense_loss(
    logits: Tensor, targets: PatchTargets, weight: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the dense heads and, for the log, accuracy on object patches.

    `logits` is `[B, P, TARGET_DIM]`, laid out as `PatchTargets.vector`; `weight` is `[B, P]`.
    """
    shape, colour, size, centre, place = torch.split(logits, [*_CLASSES, 1, PLACE_DIM], dim=-1)
    norm = weight.sum()
    loss = torch.zeros((), device=logits.device)
    metrics = {}
    on_object = (weight > 0) & (targets.shape > 0)
    for name, guess, truth, share in (
        ("shape", shape, targets.shape, 2.0),  # the hardest by far
        ("colour", colour, targets.colour, 1.0),
        ("size", size, targets.size, 1.0),
    ):
        each = F.cross_entropy(guess.flatten(0, 1), truth.flatten(), reduction="none")
        loss = loss + share * (each * weight.flatten()).sum() / norm
        metrics[name] = float((guess.argmax(-1) == truth)[on_object].float().mean())
    flags = targets.centre.float()
    each = F.binary_cross_entropy_with_logits(centre[..., 0], flags, reduction="none")
    loss = loss + 2 * (each * weight * (1 + 4 * flags)).sum() / norm
    distance = (place - targets.place).square().mean(-1)
    owned = weight * (targets.shape > 0)
    loss = loss + 5 * (distance * owned).sum() / norm
    metrics["place"] = ((distance * owned).sum() / owned.sum()).item()
    centres = (centre[..., 0] > 0) & (weight > 0)
    both = (centres & targets.centre).sum()
    metrics["centre"] = float(2 * both / (centres.sum() + (targets.centre & (weight > 0)).sum()))
    return loss, metrics


def _owner_by_pixels(object_map: NDArray[np.int8]) -> NDArray[np.int8]:
    tiles = object_map.reshape(GRID, PATCH_PX, GRID, PATCH_PX).transpose(0, 2, 1, 3)
    flat = tiles.reshape(NUM_PATCHES, PATCH_PX * PATCH_PX)
    covers = np.stack([(flat == number).mean(1) for number in range(MAX_OBJECTS)], 1)
    owner = np.asarray(covers.argmax(1), np.int8)
    owner[covers.max(1) < MIN_COVER] = -1
    return owner


def _owner_by_discs(scene: Scene) -> NDArray[np.int8]:
    owner = np.full(NUM_PATCHES, -1, np.int8)
    middle = (np.arange(GRID) + 0.5) * PATCH_PX
    yy, xx = np.meshgrid(middle, middle, indexing="ij")
    for number, item in enumerate(scene.objects):
        near = (xx - item.x_px) ** 2 + (yy - item.y_px) ** 2 < (0.8 * item.radius_px) ** 2
        owner[near.ravel()] = number
    return owner
