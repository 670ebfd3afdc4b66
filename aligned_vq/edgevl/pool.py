"""Paired images of a run as arrays: decoded once, then read as memory maps."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from aligned_vq.data.crops import cut, normalize_channels, whole_images
from aligned_vq.images.depth import IMAGENET_MEAN, IMAGENET_STD

_IMAGES_AT_ONCE = 64


@dataclass(frozen=True)
class PairArrays:
    """Pairs of a colour image and its counterpart of another modality, of one size.

    Args:
        rgb: uint8 `[N, P, P, 3]`.
        other: uint8 `[N, P, P]`, greys of depth or infrared.
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
        """Crops of the colour images, `[B, 3, S, S]`."""
        return self._normalised(cut(pairs.rgb[chosen], crops, self.side_px))

    def other(self, pairs: PairArrays, chosen: NDArray[np.int64], crops: Tensor) -> Tensor:
        """The same crops of the other modality, grey repeated: `[B, 3, S, S]`."""
        grey = cut(pairs.other[chosen][..., None], crops, self.side_px)
        return self._normalised(grey.expand(-1, 3, -1, -1))

    def _normalised(self, pixels: Tensor) -> Tensor:
        return normalize_channels(pixels, self.mean, self.std)


@torch.no_grad()
def embed(
    model: nn.Module,
    pairs: PairArrays,
    prepare: StudentInput,
    modality: str,
    chosen: NDArray[np.int64] | None = None,
) -> Tensor:
    """Embeddings `[N, D]` float32 of whole images, on the CPU.

    Args:
        model: in eval mode, takes `[B, 3, S, S]`.
        pairs: the images.
        prepare: the model's input.
        modality: "rgb" or "other".
        chosen: indices of the pairs; None: all of them.
    """
    device = next(model.parameters()).device
    every = np.arange(len(pairs)) if chosen is None else chosen
    take = prepare.rgb if modality == "rgb" else prepare.other
    parts = []
    for first in range(0, len(every), _IMAGES_AT_ONCE):
        batch = every[first : first + _IMAGES_AT_ONCE]
        pixels = take(pairs, batch, whole_images(len(batch)))
        parts.append(model(pixels.to(device)).float().cpu())
    return torch.cat(parts)
