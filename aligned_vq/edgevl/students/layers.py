"""Layers that several students share.

Modules decide by `self.training` through dropout operators only: an exported graph keeps those, and
its quantized copy can be switched between training and evaluation.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

CHANNELS = 3
"""Of the input; images of one channel repeat it."""


class Trunk(nn.Module):
    """A student without its head: pixels `[B, 3, H, W]` to tokens `[B, N, C]`."""

    def pool(self, tokens: Tensor) -> Tensor:
        """What stands for the image, `[B, 1, C]`: the mean of its tokens."""
        return tokens.mean(dim=1, keepdim=True)


class PatchProjection(nn.Module):
    """Non-overlapping square patches, each projected to a token.

    Equal to a convolution with stride = kernel size. ONNX Runtime has no fused int8 convolution
    with float output; as a matrix product, the layer becomes one int8 operator.

    Args:
        channels: of the input.
        width: C, of the tokens.
        patch_size: in pixels.
    """

    def __init__(self, channels: int, width: int, patch_size: int) -> None:
        super().__init__()
        self.patch_size = patch_size
        self.projection = nn.Linear(channels * patch_size**2, width)

    def forward(self, pixels: Tensor) -> Tensor:
        """Tokens `[B, N, C]`, row by row, of pixels `[B, channels, H, W]`."""
        size = self.patch_size
        batch, channels, height, width = pixels.shape
        rows, columns = height // size, width // size
        patches = pixels.reshape(batch, channels, rows, size, columns, size)
        # [B, rows, columns, channels, size, size]: the order of a convolution's flattened weight.
        patches = patches.permute(0, 2, 4, 1, 3, 5)
        tokens: Tensor = self.projection(patches.reshape(batch, rows * columns, -1))
        return tokens


class DropPath(nn.Module):
    """Stochastic depth (Huang et al., ECCV 2016): zeroes a residual branch for some images."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability

    def forward(self, x: Tensor) -> Tensor:
        """`x` `[B, ...]`, in training with some images zeroed and the others scaled up."""
        if self.probability == 0:
            return x
        # Feature dropout of `[1, B, ...]` zeroes whole entries of B.
        return F.dropout2d(x.unsqueeze(0), self.probability, self.training).squeeze(0)


class FeedForward(nn.Module):
    """The two-layer perceptron of a block, four times as wide inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        """`[B, N, C]` to `[B, N, C]`."""
        out: Tensor = self.fc2(F.gelu(self.fc1(x)))
        return out


class RelativeBias(nn.Module):
    """A learned bias for each head and each shift between two tokens of a square grid.

    Args:
        side: tokens along a side of the grid; N = side * side.
        heads: number of heads.
    """

    index: Tensor

    def __init__(self, side: int, heads: int) -> None:
        super().__init__()
        self.side = side
        shifts = 2 * side - 1  # from -(side - 1) to side - 1
        self.table = nn.Parameter(torch.zeros(shifts * shifts, heads))
        nn.init.trunc_normal_(self.table, std=0.02)
        places = torch.arange(side)
        shift = places[:, None] - places[None, :] + side - 1  # [side, side]
        index = shift[:, None, :, None] * shifts + shift[None, :, None, :]  # [side] * 4
        self.register_buffer("index", index.reshape(-1), persistent=False)

    def forward(self) -> Tensor:
        """The bias `[heads, N, N]`, from query to key."""
        tokens = self.side * self.side
        return self.table[self.index].reshape(tokens, tokens, -1).permute(2, 0, 1)


def attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention as two matrix products and a softmax, which the quantizer can tell apart.

    Args:
        q: queries `[..., heads, N, C / heads]`.
        k: keys, of the same shape.
        v: values, of the same shape.
        bias: added to the scores, `[heads, N, N]`.
        mask: added to the scores too, broadcast to `[..., heads, N, N]`.

    Returns:
        `[..., N, C]`.
    """
    scores = torch.matmul(q, k.transpose(-2, -1)) * q.shape[-1] ** -0.5
    # Bias and mask are added one by one: their sum would be many times larger in a file.
    scores = scores + bias
    if mask is not None:
        scores = scores + mask
    out = torch.matmul(F.softmax(scores, dim=-1), v)
    return out.transpose(-3, -2).flatten(-2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """`[..., N, C]` to `[..., heads, N, C / heads]`."""
    return torch.unflatten(x, -1, (heads, -1)).transpose(-3, -2)
