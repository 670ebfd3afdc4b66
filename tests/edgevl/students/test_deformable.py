"""Deformable sampling against values worked out by hand."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from aligned_vq.edgevl.students.deformable import (
    OFFSET_LIMIT_TOKENS,
    DeformableAttention,
    OffsetNetwork,
    sample,
)
from aligned_vq.edgevl.students.layers import attend, split_heads

GRID = 4
RAMP = torch.arange(16.0).reshape(1, 1, GRID, GRID)  # value 4 * row + column


class FixedOffsets(nn.Module):
    """Moves every reference point alike."""

    def __init__(self, x_tokens: float, y_tokens: float) -> None:
        super().__init__()
        self.offset = torch.tensor([x_tokens, y_tokens])

    def forward(self, queries: Tensor) -> Tensor:
        return self.offset.expand(len(queries), GRID, GRID, 2)


def attention() -> DeformableAttention:
    torch.manual_seed(0)
    layer = DeformableAttention(8, 2, GRID, 2)
    nn.init.normal_(layer.bias.table)
    return layer


def sampled(layer: DeformableAttention, x_tokens: float, y_tokens: float) -> Tensor:
    """The ramp sampled where every reference point moved by this many tokens."""
    points = layer.reference + torch.tensor([x_tokens, y_tokens]) * 2 / GRID
    return sample(RAMP, points[None])[0, 0]


def test_zero_offsets_sample_the_tokens_themselves() -> None:
    torch.testing.assert_close(sampled(attention(), 0, 0), RAMP[0, 0])


def test_an_offset_of_one_token_shifts_the_grid() -> None:
    moved = sampled(attention(), 1, 0)
    torch.testing.assert_close(moved[:, :3], RAMP[0, 0, :, 1:])
    assert not moved[:, 3].any()  # outside of the image are zeros


def test_between_tokens_samples_are_bilinear() -> None:
    # A quarter to the right and half down: 0.25 * 1 + 0.5 * 4 more than the token.
    moved = sampled(attention(), 0.25, 0.5)
    torch.testing.assert_close(moved[:3, :3], RAMP[0, 0, :3, :3] + 2.25)


def test_zero_offsets_are_plain_attention() -> None:
    layer = attention()
    layer.offsets = FixedOffsets(0, 0)
    x = torch.randn(2, 16, 8)
    q, (k, v) = layer.query(x), layer.key_value(x).chunk(2, -1)
    q, k, v = (split_heads(t, 2) for t in (q, k, v))
    torch.testing.assert_close(layer(x), layer.out(attend(q, k, v, layer.bias())))


def test_a_fixed_offset_moves_keys_and_values() -> None:
    layer = attention()
    layer.offsets = FixedOffsets(-1, 0)
    x = torch.randn(2, 16, 8)
    images = x.reshape(2, GRID, GRID, 8)
    moved = torch.zeros_like(images)
    moved[:, :, 1:] = images[:, :, :-1]  # each point reads its left neighbour
    q, (k, v) = layer.query(x), layer.key_value(moved.reshape(2, 16, 8)).chunk(2, -1)
    q, k, v = (split_heads(t, 2) for t in (q, k, v))
    torch.testing.assert_close(layer(x), layer.out(attend(q, k, v, layer.bias())))


def test_offsets_depend_on_the_queries_and_are_limited() -> None:
    torch.manual_seed(0)
    network = OffsetNetwork(4)
    nn.init.normal_(network.project.weight, std=3.0)
    queries = torch.randn(2, 4, GRID, GRID)
    offsets = network(queries)
    assert offsets.shape == (2, GRID, GRID, 2)
    assert float(offsets.detach().std()) > 0.1
    assert float(offsets.detach().abs().max()) <= OFFSET_LIMIT_TOKENS


def test_a_bias_belongs_to_the_shift_between_tokens() -> None:
    layer = attention()
    bias = layer.bias()
    assert bias.shape == (2, 16, 16)
    # From token (0, 0) to (1, 2) and from (2, 1) to (3, 3): the same shift.
    assert torch.equal(bias[:, 0, 4 + 2], bias[:, 8 + 1, 12 + 3])
    assert not torch.equal(bias[:, 0, 1], bias[:, 1, 0])
