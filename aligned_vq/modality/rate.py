"""Bits of coded images, as a term that a prefix can learn from."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from aligned_vq.quantizer.aligned import QuantizedLatents
from aligned_vq.quantizer.residual import GroupedCodebook, ResidualCodebooks


def learnable_bits(
    codebooks: ResidualCodebooks,
    coded: QuantizedLatents,
    stages: Sequence[int],
    rate_weight: Tensor,
) -> Tensor:
    """The estimated bits of each image, `[B]`, with a gradient to the latents.

    The value is `rate_bits`. Choices have no gradient, so the gradient is that of soft ones: of the
    expected code length in the first stage, and of the probability that a later stage covers a
    token, which falls as the token comes near to what the stages before have decoded.

    Args:
        codebooks: frozen.
        coded: the output for these images.
        stages: in use, the first of which covers every token.
        rate_weight: of each image, `[B]`.
    """
    # Zero in value: the inputs of every stage move as the latents do.
    moving = coded.latents - coded.latents.detach()
    first = coded.choices[stages[0]].inputs
    nearest = codebooks.stage(stages[0]).search(first).indices
    # As in `ResidualCodebooks.encode`, [B, N].
    weight = rate_weight[:, None] / codebooks.stage(stages[0]).importance(nearest)
    soft = _expected_bits(codebooks.stage(stages[0]), first + moving, weight).sum(1)
    for number in stages[1:]:
        stage, choice = codebooks.stage(number), coded.choices[number]
        inputs = choice.inputs + moving
        entries = stage.decode(choice.indices)
        bits = stage.length_bits(choice.indices)
        cost = (entries.square() - 2 * inputs * entries).sum(-1) + weight * bits
        # Relative to a typical cost, so that choices are as soft at any scale.
        covered = torch.sigmoid(-cost / cost.detach().abs().mean().clamp(min=1e-6))
        soft = soft + (covered * bits).sum(1)
    return soft + (coded.rate_bits - soft).detach()


def _expected_bits(stage: GroupedCodebook, inputs: Tensor, weight: Tensor) -> Tensor:
    """Expected code length of each token, `[B, N]`, of soft choices by cost."""
    parts = inputs.chunk(len(stage.groups), dim=-1)
    total = torch.zeros_like(weight)
    for codebook, part in zip(stage.codebooks(), parts, strict=True):
        bits = codebook.length_bits()
        distance = torch.cdist(part, codebook.entries.expand(len(part), -1, -1)).square()
        temperature = distance.detach().amin(-1).mean().clamp(min=1e-6)
        share = functional.softmax(-(distance + weight[..., None] * bits) / temperature, -1)
        total = total + (share * bits).sum(-1)
    return total
