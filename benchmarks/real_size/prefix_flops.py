"""Floating-point operations of the edge half of a CLIP tower, by formula."""

from __future__ import annotations

from aligned_vq.llava.tower_config import VisionConfig
from aligned_vq.types import SplitPoint


def prefix_flops(vision: VisionConfig, split: SplitPoint) -> int:
    """Operations of the matrix products of a `VisionPrefix` for one image.

    A multiplication and its addition count as two; LayerNorms, softmax, activations and residual
    additions are left out.

    With N tokens, P = N - 1 patches of side p and c channels, width D and MLP width M:

        patch embedding          2 P (c p^2) D                    0.69 GFLOP
        attention of a block     4 * 2 N D^2 + 2 * 2 N^2 D        6.20 GFLOP
        MLP of a block           2 * 2 N D M                      9.68 GFLOP

    The numbers are those of ViT-L/14-336: N = 577, p = 14, c = 3, D = 1024, M = 4096. A cut at
    `pre` or `ln1@k` runs the blocks before k, one at `ln2@k` also the attention of block k.
    """
    tokens, dim = vision.num_tokens, vision.hidden_size
    patch = 2 * (tokens - 1) * vision.num_channels * vision.patch_size**2 * dim
    attention = 8 * tokens * dim**2 + 4 * tokens**2 * dim  # four projections; scores, values
    mlp = 4 * tokens * dim * vision.intermediate_size  # two layers
    partial_block = attention if split.norm == "ln2" else 0
    return patch + split.block * (attention + mlp) + partial_block
