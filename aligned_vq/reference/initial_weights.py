"""Initial weights with which small vision towers learn sooner."""

from __future__ import annotations

import torch
from transformers.models.clip.modeling_clip import CLIPAttention


def sinusoids(side: int, width: int) -> torch.Tensor:
    """Fixed 2-D position code `[side * side, width]`: sines and cosines of x, then of y."""
    rates = torch.exp(torch.linspace(0.5, -3.0, width // 4))
    place = torch.arange(side).float()
    rows, columns = torch.meshgrid(place, place, indexing="ij")
    waves = [
        f(axis.reshape(-1, 1) * rates) for axis in (columns, rows) for f in (torch.sin, torch.cos)
    ]
    return torch.cat(waves, dim=1)


def start_local(attention: CLIPAttention) -> None:
    """Attention that starts by looking at its neighbourhood.

    Query-key products near the identity meet the position sinusoids, value-output products near
    minus the identity (mimetic initialisation, arXiv 2305.09828): small towers then find contours
    much sooner.
    """
    width, per_head = attention.embed_dim, attention.head_dim
    eye = torch.eye(width)

    def factors(noise: float, identity: float, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
        product = noise * torch.randn(width, width) / width**0.5 + identity * eye
        # The best factors of this rank: their product approximates `product`.
        left, scale, right = torch.linalg.svd(product)
        root = scale[:rank].sqrt()
        return (left[:, :rank] * root).T, right[:rank] * root[:, None]

    for head in range(attention.num_heads):
        rows = slice(head * per_head, (head + 1) * per_head)
        attention.q_proj.weight[rows], attention.k_proj.weight[rows] = factors(0.7, 0.7, per_head)
    output, value = factors(0.4, -0.4, width)
    attention.out_proj.weight.copy_(output.T)
    attention.v_proj.weight.copy_(value)
