"""Deformable attention: keys and values are sampled where the image asks for it.

Xia et al., "Vision Transformer with Deformable Attention", CVPR 2022, sections 3.2 and 3.3: a small
network looks at the queries and moves a grid of reference points; features are sampled there with
bilinear weights, and keys and values are projections of the samples.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.edgevl.students.layers import RelativeBias, attend, split_heads

OFFSET_LIMIT_TOKENS = 2.0
"""The farthest that a reference point moves along each axis."""
_KERNEL = 5


class DeformableAttention(nn.Module):
    """Attention from all tokens to samples of the tokens' grid.

    Differences from the paper: there are as many reference points as tokens, at their centres, so
    that zero offsets sample the tokens themselves; and the relative position bias is that of the
    reference points, while the paper interpolates it at the moved points.

    Args:
        width: C.
        heads: number of heads.
        grid: tokens along a side of the image; N = grid * grid.
        groups: G, groups of channels with offsets of their own; divides heads.
    """

    reference: Tensor

    def __init__(self, width: int, heads: int, grid: int, groups: int) -> None:
        super().__init__()
        self.heads = heads
        self.grid = grid
        self.groups = groups
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.offsets: nn.Module = OffsetNetwork(width // groups)
        self.bias = RelativeBias(grid, heads)
        # Centres of the tokens from -1 to 1, as (x, y), in the convention of `sample`.
        centres = (2 * torch.arange(grid) + 1) / grid - 1
        y, x = torch.meshgrid(centres, centres, indexing="ij")
        self.register_buffer("reference", torch.stack([x, y], dim=-1), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        q = self.query(x)
        offsets = self.offsets(self._grouped(q))  # [B * G, grid, grid, 2], in tokens
        # One token is 2 / grid of the interval from -1 to 1.
        points = self.reference + offsets * (2 / self.grid)
        sampled = self._ungrouped(sample(self._grouped(x), points))  # [B, N, C]
        k, v = self.key_value(sampled).chunk(2, -1)
        q, k, v = (split_heads(t, self.heads) for t in (q, k, v))
        out: Tensor = self.out(attend(q, k, v, self.bias()))
        return out

    def _grouped(self, x: Tensor) -> Tensor:
        """`[B, N, C]` to images `[B * G, C / G, grid, grid]`."""
        images = torch.unflatten(x.transpose(1, 2), 2, (self.grid, self.grid))
        return torch.unflatten(images, 1, (self.groups, -1)).flatten(0, 1)

    def _ungrouped(self, images: Tensor) -> Tensor:
        """The reverse of `_grouped`."""
        grouped = torch.unflatten(images, 0, (-1, self.groups))
        return grouped.flatten(1, 2).flatten(2).transpose(1, 2)


class OffsetNetwork(nn.Module):
    """Where each reference point moves, from the queries around it (section 3.2, figure 2b)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, _KERNEL, padding=_KERNEL // 2, groups=width)
        self.norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, 2, bias=False)

    def forward(self, queries: Tensor) -> Tensor:
        """Offsets `[B, H, W, 2]` as (x, y) in tokens, of queries `[B, C, H, W]`."""
        x = self.depthwise(queries).permute(0, 2, 3, 1)
        return torch.tanh(self.project(F.gelu(self.norm(x)))) * OFFSET_LIMIT_TOKENS


def sample(images: Tensor, points: Tensor) -> Tensor:
    """Bilinear samples `[B, C, H', W']` of images `[B, C, H, W]`.

    Args:
        images: what is sampled; outside of it are zeros.
        points: `[B, H', W', 2]` as (x, y); -1 and 1 are the outer edges of the image.
    """
    return F.grid_sample(images, points, mode="bilinear", align_corners=False)
