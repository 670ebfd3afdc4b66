"""The CLIP student: it starts as its teacher's vision tower.

With the teacher's weights it gives the teacher's embeddings of colour images before any training,
so that all of the training goes into the other modality and into int8 (weights are inherited as in
TinyCLIP, ICCV 2023, but none are left out).
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel

from aligned_vq.edgevl.students.config import StudentConfig
from aligned_vq.edgevl.students.layers import CHANNELS, PatchProjection, Trunk


class ClipTrunk(Trunk):
    """Pixels `[B, 3, H, W]` to all tokens `[B, 1 + N, C]` behind the last block."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        (width,), (depth,), (heads,) = config.widths, config.depths, config.heads
        tower = CLIPVisionModel(
            CLIPVisionConfig(
                hidden_size=width,
                intermediate_size=4 * width,
                num_hidden_layers=depth,
                num_attention_heads=heads,
                image_size=config.image_size,
                patch_size=config.patch_size,
                num_channels=CHANNELS,
                hidden_act=config.activation,
                # The quantizer needs attention as separate matrix products.
                attn_implementation="eager",
            )
        )
        self.patches = PatchProjection(CHANNELS, width, config.patch_size)
        self.class_token = tower.embeddings.class_embedding
        self.positions = nn.Parameter(tower.embeddings.position_embedding.weight.detach())
        self.pre_norm = tower.pre_layrnorm
        self.encoder = tower.encoder
        self.post_norm = tower.post_layernorm

    def forward(self, pixels: Tensor) -> Tensor:
        """The class token, then the others row by row."""
        patches = self.patches(pixels)
        first = self.class_token.expand(patches.shape[0], 1, -1)
        embedded = self.pre_norm(torch.cat([first, patches], 1) + self.positions)
        tokens: Tensor = self.encoder(inputs_embeds=embedded).last_hidden_state
        return tokens

    def pool(self, tokens: Tensor) -> Tensor:
        """What stands for the image, `[B, 1, C]`: the class token."""
        pooled: Tensor = self.post_norm(tokens[:, :1])
        return pooled

    @torch.no_grad()
    def inherit(self, tower: nn.Module) -> None:
        """Take over the weights of a CLIP's vision tower of the same dimensions."""
        source = {name: tensor.float() for name, tensor in tower.state_dict().items()}
        self.patches.projection.weight.copy_(source["embeddings.patch_embedding.weight"].flatten(1))
        self.patches.projection.bias.zero_()  # CLIP has none
        self.class_token.copy_(source["embeddings.class_embedding"])
        self.positions.copy_(source["embeddings.position_embedding.weight"])
        for module, prefix in (
            (self.pre_norm, "pre_layrnorm."),
            (self.encoder, "encoder."),
            (self.post_norm, "post_layernorm."),
        ):
            module.load_state_dict(
                {
                    name.removeprefix(prefix): tensor
                    for name, tensor in source.items()
                    if name.startswith(prefix)
                }
            )
