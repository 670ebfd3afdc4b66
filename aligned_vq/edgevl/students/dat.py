"""The DAT student: windows in the first stages, windows and deformable attention in the last.

Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022. DAT++ (2023), which EdgeVL
uses, has neighbourhood attention where this has windows, overlapping patches and depthwise
convolutions between layers; windows need no operator of their own on the device.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.deformable import DeformableAttention
from aligned_vq.edgevl.students.layers import (
    CHANNELS,
    DropPath,
    FeedForward,
    PatchProjection,
    Trunk,
)
from aligned_vq.edgevl.students.windows import WindowAttention


class DatTrunk(Trunk):
    """Pixels `[B, 3, H, W]` to the last stage's tokens `[B, N, C]` after LayerNorm."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.stages = nn.ModuleList(_DatStage(config, stage) for stage in range(len(config.widths)))
        self.norm = nn.LayerNorm(config.widths[-1])
        self.apply(_initialise)

    def forward(self, pixels: Tensor) -> Tensor:
        """The tokens, row by row."""
        x = pixels
        for stage in self.stages:
            x = stage(x)
        tokens: Tensor = self.norm(x.flatten(2).transpose(1, 2))
        return tokens


class _DatStage(nn.Module):
    """Patches to tokens, then blocks with two kinds of attention in turn."""

    def __init__(self, config: StudentConfig, stage: int) -> None:
        super().__init__()
        self.grid = config.grids[stage]
        width = config.widths[stage]
        channels = config.widths[stage - 1] if stage else CHANNELS
        self.patches = PatchProjection(channels, width, 2 if stage else config.patch_size)
        self.norm = nn.LayerNorm(width)
        earlier, last = sum(config.depths[:stage]), max(sum(config.depths) - 1, 1)
        self.blocks = nn.ModuleList(
            DatBlock(
                width,
                _attention(config, stage, block % 2 == 1),
                config.drop_path * (earlier + block) / last,
            )
            for block in range(config.depths[stage])
        )

    def forward(self, images: Tensor) -> Tensor:
        """`[B, channels, H, W]` to `[B, C, grid, grid]`."""
        x = self.norm(self.patches(images))
        for block in self.blocks:
            x = block(x)
        tokens: Tensor = x
        return torch.unflatten(tokens.transpose(1, 2), 2, (self.grid, self.grid))


def _attention(config: StudentConfig, stage: int, second: bool) -> nn.Module:
    """Windows, and every second time shifted windows or deformable attention."""
    width, heads, grid = config.widths[stage], config.heads[stage], config.grids[stage]
    groups = config.offset_groups[stage]
    if second and groups:
        return DeformableAttention(width, heads, grid, groups)
    return WindowAttention(width, heads, grid, config.window, second)


class DatBlock(nn.Module):
    """A pre-LN block: attention, then a perceptron, each with a residual connection."""

    def __init__(self, width: int, attention: nn.Module, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = attention
        self.norm2 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)
        self.drop_path = DropPath(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        x = x + self.drop_path(self.attention(self.norm1(x)))
        out: Tensor = x + self.drop_path(self.feed_forward(self.norm2(x)))
        return out


def _initialise(module: nn.Module) -> None:
    """The usual initial values of vision transformers."""
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
