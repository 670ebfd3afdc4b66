"""The Swin student: transformers' Swin."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import SwinConfig, SwinModel

from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.layers import (
    CHANNELS,
    DropPath,
    PatchProjection,
    Trunk,
    attend,
    split_heads,
)
from aligned_vq.edgevl.students.windows import shift_mask


class SwinTrunk(Trunk):
    """Pixels `[B, 3, H, W]` to the last stage's tokens `[B, N, C]` after LayerNorm.

    As in transformers, only attention is left out by stochastic depth, not the perceptron.
    """

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.model = SwinModel(
            SwinConfig(
                embed_dim=config.widths[0],
                depths=list(config.depths),
                num_heads=list(config.heads),
                window_size=config.window,
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_channels=CHANNELS,
                drop_path_rate=config.drop_path,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                attn_implementation="eager",
            ),
            add_pooling_layer=False,
        )
        grid = config.grids[0]
        self.model.embeddings.patch_embeddings = _SwinPatches(
            config.widths[0], config.patch_size, grid
        )
        for stage, grid in zip(self.model.encoder.layers, config.grids, strict=True):
            for block in stage.blocks:
                block.set_shift_and_window_size((grid, grid))
                block.attention = SwinWindowAttention(
                    block.attention,
                    shift_mask(grid, block.window_size, block.shift_size),
                    block.shift_size > 0,
                )
                # transformers decides in Python whether to drop: an exported graph would keep
                # what was decided at its export.
                if not isinstance(block.drop_path, nn.Identity):
                    block.drop_path = DropPath(block.drop_path.drop_prob)

    def forward(self, pixels: Tensor) -> Tensor:
        """The tokens, row by row."""
        tokens: Tensor = self.model(pixels).last_hidden_state
        return tokens


class SwinWindowAttention(nn.Module):
    """Attention of a block of transformers' Swin, with a mask that is made once.

    It has the same tensors under the same names. Its masked weights are 0, where transformers' are
    denormal numbers, and the mask has no batch dimension.

    Args:
        attention: whose layers are used.
        mask: `[windows, 1, N, N]`.
        shifted: add the mask to the scores.
    """

    mask: Tensor

    def __init__(self, attention: Any, mask: Tensor, shifted: bool) -> None:
        super().__init__()
        self.heads: int = attention.num_attention_heads
        self.q_proj, self.k_proj = attention.q_proj, attention.k_proj
        self.v_proj, self.o_proj = attention.v_proj, attention.o_proj
        self.relative_position_bias = attention.relative_position_bias
        self.shifted = shifted
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, x: Tensor, _mask: Tensor | None, **_options: Any) -> tuple[Tensor, None]:
        """`[B * windows, N, C]` to the same shape; the mask of transformers is not used."""
        windows = torch.unflatten(x, 0, (-1, len(self.mask)))
        projections = (self.q_proj, self.k_proj, self.v_proj)
        q, k, v = (split_heads(project(windows), self.heads) for project in projections)
        bias = self.relative_position_bias().squeeze(0)
        out = self.o_proj(attend(q, k, v, bias, self.mask if self.shifted else None))
        return out.flatten(0, 1), None


class _SwinPatches(PatchProjection):
    """Patches in the form that transformers' Swin expects: tokens and their grid."""

    def __init__(self, width: int, patch_size: int, grid: int) -> None:
        super().__init__(CHANNELS, width, patch_size)
        self.grid = grid

    def forward(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:  # type: ignore[override]
        return super().forward(pixels), (self.grid, self.grid)
