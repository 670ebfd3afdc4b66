"""The ViT student: transformers' ViT."""

from __future__ import annotations

from torch import Tensor
from transformers import ViTConfig, ViTModel

from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.layers import CHANNELS, PatchProjection, Trunk


class VitTrunk(Trunk):
    """Pixels `[B, 3, H, W]` to all tokens `[B, 1 + N, C]` after the final LayerNorm."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        (width,), (depth,), (heads,) = config.widths, config.depths, config.heads
        self.model = ViTModel(
            ViTConfig(
                hidden_size=width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                intermediate_size=4 * width,
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_channels=CHANNELS,
                hidden_dropout_prob=0.0,
                attention_probs_dropout_prob=0.0,
                # The quantizer needs attention as separate matrix products.
                attn_implementation="eager",
            ),
            add_pooling_layer=False,
        )
        self.model.embeddings.patch_embeddings = PatchProjection(CHANNELS, width, config.patch_size)

    def forward(self, pixels: Tensor) -> Tensor:
        """The class token, then the others row by row."""
        tokens: Tensor = self.model(pixels).last_hidden_state
        return tokens
