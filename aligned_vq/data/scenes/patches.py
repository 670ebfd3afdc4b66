"""Dense training targets of the vision tower: the object shown in each of the 24 x 24 patches.

Question answering is too weak a signal for a tower with random weights. With the shape, colour,
size and position of the object in every patch as targets, it learns in minutes.
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
MIN_COVER = 0.25  # fraction of a patch's pixels that makes it part of an object
PLACE_RATES = (1.0, 2.0, 4.0)  # frequencies of the sines that encode positions
_CLASSES = (len(SHAPES) + 1, len(COLOURS) + 1, len(SIZES) + 1)  # 0 is background
PLACE_DIM = 4 * len(PLACE_RATES)
TARGET_DIM = sum(_CLASSES) + 1 + PLACE_DIM


class SceneLabels(NamedTuple):
    """Compact labels of one scene."""

    owner: NDArray[np.int8]
    """`[576]`: number of the object in each patch; -1: background."""
    centre: NDArray[np.bool_]
    """`[576]`: whether the centre of an object lies in the patch."""
    attributes: NDArray[np.int8]
    """`[5, 3]`: classes of shape, colour and size of each object, from 1."""
    place: NDArray[np.float32]
    """`[5, 2]`: centre of each object, x and y from 0 to 1."""


class PatchTargets(NamedTuple):
    """Dense targets of a batch, `[B, P]` each; class 0 is background."""

    shape: Tensor
    colour: Tensor
    size: Tensor
    centre: Tensor
    place: Tensor
    """`[B, P, 12]`: sines and cosines of the object's centre, 0 for background."""

    def vector(self) -> Tensor:
        """All targets as one vector per patch, float32 `[B, P, TARGET_DIM]`."""
        classes = (self.shape, self.colour, self.size)
        parts = [F.one_hot(c, n).float() for c, n in zip(classes, _CLASSES, strict=True)]
        return torch.cat([*parts, self.centre[..., None].float(), self.place], dim=-1)


def label_scene(scene: Scene, object_map: NDArray[np.int8] | None) -> SceneLabels:
    """Labels of a scene, from a rendering's object map, or approximated by discs if it is None."""
    owner = _owner_by_discs(scene) if object_map is None else _owner_by_pixels(object_map)
    centre = np.zeros(NUM_PATCHES, np.bool_)
    attributes = np.zeros((MAX_OBJECTS, 3), np.int8)
    place = np.zeros((MAX_OBJECTS, 2), np.float32)
    colours = list(COLOURS)
    for number, item in enumerate(scene.objects):
        # Patches are numbered in raster order.
        patch = int(item.y_px // PATCH_PX) * GRID + int(item.x_px // PATCH_PX)
        centre[patch] = True
        owner[patch] = number  # even if the object is a ring, whose centre is empty
        attributes[number] = (
            SHAPES.index(item.shape) + 1,
            colours.index(item.colour) + 1,
            SIZES.index(item.size) + 1,
        )
        place[number] = (item.x_px / IMAGE_SIZE_PX, item.y_px / IMAGE_SIZE_PX)
    return SceneLabels(owner, centre, attributes, place)


def patch_targets(labels: SceneLabels) -> PatchTargets:
    """Targets of a batch from stacked labels, whose fields have a leading batch axis."""
    owner = torch.from_numpy(labels.owner).long()
    has_object = owner >= 0
    # -1 cannot be an index; the product with `has_object` corrects this.
    index = owner.clamp(min=0)
    attributes = torch.from_numpy(labels.attributes).long()
    classes = torch.gather(attributes, 1, index[..., None].expand(-1, -1, 3))  # [B, P, 3]
    classes = classes * has_object[..., None]
    xy = torch.gather(torch.from_numpy(labels.place), 1, index[..., None].expand(-1, -1, 2))
    # 2 coordinates x 3 rates x sine and cosine: [B, P, 12].
    waves = torch.cat(
        [f(xy * rate * math.pi) for rate in PLACE_RATES for f in (torch.sin, torch.cos)], -1
    )
    return PatchTargets(
        shape=classes[..., 0],
        colour=classes[..., 1],
        size=classes[..., 2],
        centre=torch.from_numpy(labels.centre),
        place=waves * has_object[..., None],
    )


def dense_loss(
    logits: Tensor, targets: PatchTargets, weight: Tensor
) -> tuple[Tensor, dict[str, float]]:
    """Loss of the dense heads, and metrics on object patches.

    Args:
        logits: `[B, P, TARGET_DIM]`, in the layout of `PatchTargets.vector`.
        targets: of the batch.
        weight: of each patch, `[B, P]`.
    """
    shape, colour, size, centre, place = torch.split(logits, [*_CLASSES, 1, PLACE_DIM], dim=-1)
    norm = weight.sum()
    loss = torch.zeros((), device=logits.device)
    metrics = {}
    on_object = (weight > 0) & (targets.shape > 0)
    for name, guess, truth, share in (
        ("shape", shape, targets.shape, 2.0),  # the most difficult by far
        ("colour", colour, targets.colour, 1.0),
        ("size", size, targets.size, 1.0),
    ):
        losses = F.cross_entropy(guess.flatten(0, 1), truth.flatten(), reduction="none")
        loss = loss + share * (losses * weight.flatten()).sum() / norm
        metrics[name] = float((guess.argmax(-1) == truth)[on_object].float().mean())
    is_centre = targets.centre.float()
    losses = F.binary_cross_entropy_with_logits(centre[..., 0], is_centre, reduction="none")
    # Centres are rare, so they weigh five times as much.
    loss = loss + 2 * (losses * weight * (1 + 4 * is_centre)).sum() / norm
    distance = (place - targets.place).square().mean(-1)
    object_weight = weight * (targets.shape > 0)
    loss = loss + 5 * (distance * object_weight).sum() / norm
    metrics["place"] = ((distance * object_weight).sum() / object_weight.sum()).item()
    predicted = (centre[..., 0] > 0) & (weight > 0)  # a probability above 1/2
    true_positives = (predicted & targets.centre).sum()
    actual = (targets.centre & (weight > 0)).sum()
    metrics["centre"] = float(2 * true_positives / (predicted.sum() + actual))  # F1 score
    return loss, metrics


def _owner_by_pixels(object_map: NDArray[np.int8]) -> NDArray[np.int8]:
    # Patches in raster order: [24, 14, 24, 14] to [24, 24, 14, 14].
    tiles = object_map.reshape(GRID, PATCH_PX, GRID, PATCH_PX).transpose(0, 2, 1, 3)
    flat = tiles.reshape(NUM_PATCHES, PATCH_PX * PATCH_PX)
    covers = np.stack([(flat == number).mean(1) for number in range(MAX_OBJECTS)], 1)  # [576, 5]
    owner = np.asarray(covers.argmax(1), np.int8)
    owner[covers.max(1) < MIN_COVER] = -1
    return owner


def _owner_by_discs(scene: Scene) -> NDArray[np.int8]:
    owner = np.full(NUM_PATCHES, -1, np.int8)
    middle = (np.arange(GRID) + 0.5) * PATCH_PX
    yy, xx = np.meshgrid(middle, middle, indexing="ij")
    for number, item in enumerate(scene.objects):
        # A shape fills only a part of its circumscribed circle.
        near = (xx - item.x_px) ** 2 + (yy - item.y_px) ** 2 < (0.8 * item.radius_px) ** 2
        owner[near.ravel()] = number
    return owner
