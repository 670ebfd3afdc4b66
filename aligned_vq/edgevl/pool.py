"""Paired images of a run as arrays: decoded once, then read as memory maps."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from aligned_vq.data.crops import CropBox, crop_boxes, normalize_channels, whole_images
from aligned_vq.images.depth import IMAGENET_MEAN, IMAGENET_STD, student_processor
from aligned_vq.images.masked_resize import resize_valid

SIDES = ("rgb", "other")
"""Of a pair."""
_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class PairArrays:
    """Pairs of a colour image and its counterpart of another modality, of one size.

    Args:
        rgb: uint8 `[N, P, P, 3]`.
        other: uint8 `[N, P, P]`, greys of depth or infrared, 0 in holes alone.
        names: of the pairs.
        labels: of the pairs, for scores only; None where the data have none.
    """

    rgb: NDArray[np.uint8]
    other: NDArray[np.uint8]
    names: Sequence[str]
    labels: Sequence[str | None]

    def __len__(self) -> int:
        """Number of pairs."""
        return len(self.names)


@dataclass(frozen=True)
class StudentInput:
    """How arrays become a student's input.

    Args:
        side_px: of the input.
        mean, std: per channel, after division by 255.
    """

    side_px: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def rgb(self, pairs: PairArrays, chosen: NDArray[np.int64], crops: Tensor) -> Tensor:
        """Crops of the colour images, `[B, 3, S, S]`, resized as a device resizes them."""
        size = (self.side_px, self.side_px)
        resample = Image.Resampling(student_processor(self.side_px).resample)
        views = []
        for index, crop in _each(pairs, chosen, crops):
            image = Image.fromarray(pairs.rgb[index]).resize(size, resample, crop.box)
            views.append(_mirrored(np.asarray(image), crop))
        return self._normalised(torch.from_numpy(np.stack(views)).permute(0, 3, 1, 2))

    def other(self, pairs: PairArrays, chosen: NDArray[np.int64], crops: Tensor) -> Tensor:
        """The same crops of the other modality, grey repeated: `[B, 3, S, S]`."""
        size = (self.side_px, self.side_px)
        views = []
        for index, crop in _each(pairs, chosen, crops):
            whole = pairs.other[index].astype(np.float32)
            greys, _ = resize_valid(whole, whole > 0, size, crop.box)
            views.append(_mirrored(np.rint(greys).astype(np.uint8), crop))
        return self._normalised(torch.from_numpy(np.stack(views))[:, None].expand(-1, 3, -1, -1))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalize_channels(pixels.float() / 255, self.mean, self.std)


def _each(
    pairs: PairArrays, chosen: NDArray[np.int64], crops: Tensor
) -> Iterator[tuple[int, CropBox]]:
    """Each index with its crop."""
    height, width = pairs.other.shape[1:]
    return zip(chosen.tolist(), crop_boxes(crops, height, width), strict=True)


def _mirrored(view: NDArray[np.uint8], crop: CropBox) -> NDArray[np.uint8]:
    return view[:, ::-1] if crop.is_mirrored else view


@torch.no_grad()
def embed(
    model: nn.Module,
    pairs: PairArrays,
    prepare: StudentInput,
    side: str,
    chosen: NDArray[np.int64] | None = None,
) -> Tensor:
    """Embeddings `[N, D]` float32 of whole images, on the CPU.

    Args:
        model: in eval mode, takes `[B, 3, S, S]`.
        pairs: the images.
        prepare: the model's input.
        side: one of `SIDES`.
        chosen: indices of the pairs; None: all of them.
    """
    device = next(model.parameters()).device
    every = np.arange(len(pairs)) if chosen is None else chosen
    take = prepare.rgb if side == "rgb" else prepare.other
    parts = []
    for first in range(0, len(every), _IMAGES_AT_ONCE):
        batch = every[first : first + _IMAGES_AT_ONCE]
        pixels = take(pairs, batch, whole_images(len(batch)))
        parts.append(model(pixels.to(device)).float().cpu())
    return torch.cat(parts)
