"""Random crops of image batches; the same crops can be cut from the other half of a pair."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

_LOG_RATIO = 0.15
"""Bound of the logarithm of a crop's square root of width over height."""


def random_crops(count: int, smallest: float, rng: np.random.Generator) -> Tensor:
    """Crops for `cut`, `[B, 2, 3]`: random place, size and shape, half of them mirrored.

    Args:
        count: number of images.
        smallest: share of the image's area, 0 to 1; crops cover about this or more.
        rng: decides on everything.
    """
    side = np.sqrt(rng.uniform(smallest, 1, count))
    ratio = np.exp(rng.uniform(-_LOG_RATIO, _LOG_RATIO, count))
    width, height = np.minimum(side * ratio, 1), np.minimum(side / ratio, 1)
    # In coordinates from -1 to 1, as `affine_grid` counts.
    crops = np.zeros((count, 2, 3), np.float32)
    crops[:, 0, 0], crops[:, 1, 1] = width * rng.choice((-1.0, 1.0), count), height
    crops[:, 0, 2] = rng.uniform(-1, 1, count) * (1 - width)
    crops[:, 1, 2] = rng.uniform(-1, 1, count) * (1 - height)
    return torch.from_numpy(crops)


def whole_images(count: int) -> Tensor:
    """Crops for `cut` that leave nothing out, `[B, 2, 3]`."""
    return torch.eye(2, 3).expand(count, 2, 3)


class CropBox(NamedTuple):
    """A crop in pixels of its image."""

    box: tuple[float, float, float, float]
    """Left, top, right and bottom; need not be whole."""
    is_mirrored: bool


def crop_boxes(crops: Tensor, height: int, width: int) -> list[CropBox]:
    """Crops `[B, 2, 3]` as boxes of images of a size."""
    boxes = []
    for (x_scale, _, x_shift), (_, y_scale, y_shift) in crops.tolist():
        half_width, half_height = abs(x_scale) * width / 2, y_scale * height / 2
        x, y = (x_shift + 1) * width / 2, (y_shift + 1) * height / 2
        # Rounding could leave the image by a little.
        left, right = max(0.0, x - half_width), min(float(width), x + half_width)
        top, bottom = max(0.0, y - half_height), min(float(height), y + half_height)
        boxes.append(CropBox((left, top, right, bottom), x_scale < 0))
    return boxes


def cut(images: NDArray[np.uint8], crops: Tensor, side_px: int) -> Tensor:
    """Crops of images as float32 `[B, C, S, S]` from 0 to 1.

    Args:
        images: uint8 `[B, H, W, C]`.
        crops: `[B, 2, 3]`, from `random_crops` or `whole_images`.
        side_px: S. Pixels are interpolated linearly, so it should be at least about 0.6 of a crop.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).float() / 255
    size = [len(images), images.shape[3], side_px, side_px]
    grid = F.affine_grid(crops, size, align_corners=False)
    return F.grid_sample(pixels, grid, align_corners=False, padding_mode="border")


def cut_classes(maps: NDArray[np.uint8], crops: Tensor, side_px: int) -> Tensor:
    """The same crops of maps of classes `[B, H, W]`, nearest neighbours: int64 `[B, S, S]`."""
    values = torch.from_numpy(np.ascontiguousarray(maps))[:, None].float()
    grid = F.affine_grid(crops, [len(maps), 1, side_px, side_px], align_corners=False)
    near = F.grid_sample(values, grid, "nearest", "border", align_corners=False)
    return near[:, 0].long()


def normalize_channels(pixels: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """`[B, 3, H, W]` less `mean`, over `std`, of each channel."""
    shape = (1, len(mean), 1, 1)
    return (pixels - torch.tensor(mean).reshape(shape)) / torch.tensor(std).reshape(shape)
