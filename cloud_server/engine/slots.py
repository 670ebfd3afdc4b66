"""Keys and values of all running answers in one block of memory, a row each.

transformers' growing cache copies every row at every token, and pads all rows when one joins. Here
a row keeps its place: tokens are written where its last one ended, a mask hides what lies beyond,
and joining or leaving touches that row alone. Rotary positions are applied before keys are stored,
so where they lie does not matter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 128
"""Rows grow by as many tokens at a time."""


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer: `[rows, heads, tokens + 1, width]`; the last column takes what nobody reads."""

    is_sliding = False
    is_croppable = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Memory for the rows reserved so far."""
        shape = (self._cache.num_rows, key_states.shape[1], self._cache.row_tokens + 1)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write `[B, heads, Q, width]`; returns what may be seen, `[B, heads, extent, width]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first, last, places, extent = self._cache.window
        rows = torch.arange(first, last, device=places.device)[:, None]
        self.keys[rows, :, places] = key_states.transpose(1, 2)
        self.values[rows, :, places] = value_states.transpose(1, 2)
        return self.keys[first:last, :, :extent], self.values[first:last, :, :extent]

    def resize(self, rows: int, tokens: int) -> None:
        """More or less memory; what fits is kept."""
        if not self.is_initialized:
            return
        for name in ("keys", "values"):
            before: Tensor = getattr(self, name)
            after = before.new_zeros(rows, before.shape[1], tokens + 1, before.shape[3])
            kept, length = min(rows, len(before)), min(tokens, before.shape[2] - 1)
            after[:kept, :, :length] = before[:kept, :, :length]
            setattr(self, name, after)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Of the rows that are read now; the mask itself is given."""
        return self._cache.window[3], 0

    def get_seq_length(self) -> int:
        """Tokens that are read now."""
        return self._cache.window[3]

    def get_max_length(self) -> int:
        """Tokens of a row."""
        return self._cache.row_tokens


class SlotCache(Cache):  # type: ignore[misc]
    """The layers, and which part of them a forward pass writes and reads.

    Args:
        num_layers: of the language model.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_rows = 0
        self.row_tokens = 0
        self.window: tuple[int, int, Tensor, int] = (0, 0, torch.zeros(0, 0, dtype=torch.int64), 0)
        """First and last row, places `[B, Q]` of the new tokens, and tokens to read."""
        self.slots = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=self.slots)

    def reserve(self, rows: int, tokens: int) -> None:
        """Memory for `rows` rows of `tokens` tokens."""
        if (rows, tokens) != (self.num_rows, self.row_tokens):
            self.num_rows, self.row_tokens = rows, tokens
            for layer in self.slots:
                layer.resize(rows, tokens)

    def put(self, row: int, prefix: Tensor) -> None:
        """Start a row with keys and values `[layers, 2, heads, P, width]`."""
        for layer, (keys, values) in zip(self.slots, prefix, strict=True):
            if not layer.is_initialized:
                layer.lazy_initialization(keys[None], values[None])
            layer.keys[row, :, : keys.shape[1]] = keys
            layer.values[row, :, : values.shape[1]] = values

    def move(self, source: int, target: int, tokens: int) -> None:
        """Copy a row's first `tokens` tokens over another row."""
        for layer in self.slots:
            layer.keys[target, :, :tokens] = layer.keys[source, :, :tokens]
            layer.values[target, :, :tokens] = layer.values[source, :, :tokens]

    def release(self) -> None:
        """Give all memory back."""
        self.num_rows = self.row_tokens = 0
        for layer in self.slots:
            layer.is_initialized = False
            layer.keys = layer.values = torch.zeros(0)


def in_blocks(tokens: int) -> int:
    """Rounded up to whole blocks."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
