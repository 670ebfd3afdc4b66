"""Attention inside windows, plain or shifted (Liu et al., "Swin Transformer", ICCV 2021)."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from aligned_vq.edgevl.students.layers import RelativeBias, attend, split_heads

_MASKED = -1e4
"""Added to the score of a pair of tokens that must not see each other.

exp(-1e4) is 0. The usual -100 leads to denormal weights, which slow a CPU's products down: the int8
Swin took 1.8 times as long.
"""


class WindowAttention(nn.Module):
    """Self-attention among the tokens of each window.

    Args:
        width: C.
        heads: number of heads.
        grid: tokens along a side of the image.
        window: tokens along a side of a window; windows tile the grid.
        shifted: move the windows by half of their side, so that blocks in turn connect other
            tokens. A grid of one window is never shifted.
    """

    mask: Tensor

    def __init__(self, width: int, heads: int, grid: int, window: int, shifted: bool) -> None:
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.window = min(window, grid)
        self.shift = self.window // 2 if shifted and grid > self.window else 0
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.bias = RelativeBias(self.window, heads)
        mask = shift_mask(grid, self.window, self.shift)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        image = torch.unflatten(x, 1, (self.grid, self.grid))
        if self.shift:
            image = image.roll((-self.shift, -self.shift), (1, 2))
        windows = cut_windows(image, self.window)
        q, k, v = (split_heads(t, self.heads) for t in self.qkv(windows).chunk(3, -1))
        out = self.out(attend(q, k, v, self.bias(), self.mask if self.shift else None))
        image = join_windows(out, self.window)
        if self.shift:
            image = image.roll((self.shift, self.shift), (1, 2))
        return image.flatten(1, 2)


def cut_windows(image: Tensor, window: int) -> Tensor:
    """`[B, grid, grid, C]` to windows `[B, windows, window * window, C]`."""
    side = image.shape[1] // window
    rows = torch.unflatten(image, 1, (side, window))
    cut = torch.unflatten(rows, 3, (side, window))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def join_windows(windows: Tensor, window: int) -> Tensor:
    """The reverse of `cut_windows`."""
    side = math.isqrt(windows.shape[1])
    rows = torch.unflatten(windows, 1, (side, side))
    cut = torch.unflatten(rows, 3, (window, window))
    return cut.transpose(2, 3).flatten(3, 4).flatten(1, 2)


def shift_mask(grid: int, window: int, shift: int) -> Tensor:
    """`[windows, 1, N, N]`: a large negative number between tokens that the shift brought together.

    Rolling an image joins its first rows (columns) and its last in one window.
    """
    wrapped = (torch.arange(grid) >= grid - shift).float()
    regions = wrapped[:, None] * 2 + wrapped[None, :]
    cut = cut_windows(regions[None, :, :, None], window)[0, :, :, 0]  # [windows, N]
    return (cut[:, None, :, None] != cut[:, None, None, :]).float() * _MASKED
