"""Builds students of any architecture."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from aligned_vq.edgevl.students.clip import ClipTrunk
from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.dat import DatTrunk
from aligned_vq.edgevl.students.layers import CHANNELS, Trunk
from aligned_vq.edgevl.students.swin import SwinTrunk
from aligned_vq.edgevl.students.vit import VitTrunk
from aligned_vq.errors import ConfigError

_TRUNKS: dict[str, Callable[[StudentConfig], Trunk]] = {
    "vit": VitTrunk,
    "swin": SwinTrunk,
    "dat": DatTrunk,
    "clip": ClipTrunk,
}


class Student(nn.Module):
    """An image encoder in the teacher's embedding space.

    A linear head maps the mean of all tokens, a ViT's class token included, to the teacher's width;
    behind Swin and DAT a LayerNorm follows, as in EdgeVL. A CLIP's head reads the class token.

    Args:
        config: dimensions.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = _TRUNKS[config.architecture](config)
        self.head = nn.Linear(config.widths[-1], config.embedding_width)
        has_norm = config.architecture in ("swin", "dat")
        self.norm = nn.LayerNorm(config.embedding_width) if has_norm else nn.Identity()

    def forward(self, pixels: Tensor) -> Tensor:
        """Embeddings `[B, D]` of length 1, float32, of normalised pixels `[B, 3, H, W]`.

        Raises:
            ConfigError: the pixels have another shape.
        """
        return self.embedding(self.tokens(pixels))

    def tokens(self, pixels: Tensor) -> Tensor:
        """Tokens `[B, N, C]` of the last stage; the last ones are its grid, row by row."""
        check_pixels(self.config, pixels)
        tokens: Tensor = self.trunk(pixels)
        return tokens

    def embedding(self, tokens: Tensor) -> Tensor:
        """Embeddings `[B, D]` of length 1 of tokens `[B, N, C]`."""
        # A batch of single tokens `[B, 1, C]`: the head becomes a matrix product, as every other
        # linear layer.
        embedding: Tensor = self.norm(self.head(self.trunk.pool(tokens))).squeeze(1)
        return F.normalize(embedding, dim=-1)


def check_pixels(config: StudentConfig, pixels: Tensor) -> None:
    """Raise ConfigError unless pixels are `[B, 3, H, W]` of the student's image size."""
    expected = (CHANNELS, config.image_size, config.image_size)
    if pixels.ndim != 4 or tuple(pixels.shape[1:]) != expected:
        raise ConfigError(
            f"expected pixels [B, {', '.join(map(str, expected))}], got {list(pixels.shape)}: "
            "resize the images or build the student with their size"
        )


def build_student(config: StudentConfig, seed: int) -> Student:
    """A student with random weights that depend on `seed` alone, in training mode."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Student(config).train()
