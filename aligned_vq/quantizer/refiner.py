"""Refiner: a small transformer in the cloud that corrects decoded latents.

The quantization errors of neighbouring tokens are correlated, because edges, shadows and plain
areas extend over several patches. The refiner predicts each token's error from all decoded latents.
It adds no payload bytes and no work on the edge.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aligned_vq.errors import ConfigError
from aligned_vq.types import QuantizerConfig

HEAD_WIDTH = 32


class Refiner(nn.Module):
    """`latents_hat + correction(latents_hat)`, `[B, N, d]` to `[B, N, d]`, float32.

    The last projection starts at zero, so an untrained refiner is the identity.

    Args:
        num_tokens: N; every position has a learned embedding.
        config: number and width of the blocks.

    Raises:
        ConfigError: there is no block, or the width is not a multiple of HEAD_WIDTH.
    """

    scale: Tensor

    def __init__(self, num_tokens: int, config: QuantizerConfig) -> None:
        super().__init__()
        width = config.refiner_width
        if config.refiner_blocks < 1 or width < HEAD_WIDTH or width % HEAD_WIDTH:
            raise ConfigError(
                f"a refiner needs blocks and a width that is a multiple of {HEAD_WIDTH}, got "
                f"{config.refiner_blocks} of width {width}"
            )
        self.project_in = nn.Linear(config.codebook_dim, width)
        # 0.02 is the usual initial standard deviation of position embeddings.
        self.position = nn.Parameter(0.02 * torch.randn(num_tokens, width))
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(
                width,
                width // HEAD_WIDTH,
                2 * width,
                dropout=0.0,
                activation="gelu",
                batch_first=True,
                norm_first=True,  # pre-LN, as in the vision tower
            )
            for _ in range(config.refiner_blocks)
        )
        self.norm = nn.LayerNorm(width)
        self.project_out = nn.Linear(width, config.codebook_dim)
        nn.init.zeros_(self.project_out.weight)
        nn.init.zeros_(self.project_out.bias)
        self.register_buffer("scale", torch.ones(config.codebook_dim))
        """Standard deviation of each latent dimension, `[d]`."""

    def forward(self, latents_hat: Tensor) -> Tensor:
        """Corrected latents `[B, N, d]`."""
        tokens = self.project_in(latents_hat / self.scale) + self.position  # [B, N, width]
        for block in self.blocks:
            tokens = block(tokens)
        corrected: Tensor = latents_hat + self.project_out(self.norm(tokens)) * self.scale
        return corrected
