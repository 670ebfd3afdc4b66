"""Keys and values of all running answers in one block of memory, a row each.

transformers' growing cache copies every row at every token, and pads all rows when one joins. Here
a row keeps its place: tokens are written where its last one ended, a mask hides what lies beyond,
and joining or leaving touches that row alone. Rotary positions are applied before keys are stored,
so where they lie does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        """More or less memory; what fits is kept. Where there is none, nothing changes."""
        if self.is_initialized:
            self.keys, self.values = (
                _resized(before, rows, tokens) for before in (self.keys, self.values)
            )

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
        self._written: list[int] = []
        """Tokens of each row behind which there are zeros."""
        self.slots = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=self.slots)

    def reserve(self, rows: int, tokens: int) -> None:
        """Memory for `rows` rows of `tokens` tokens. Where it runs out on the way, every row and
        token that was there before and is still asked for stays usable."""
        if (rows, tokens) == (self.num_rows, self.row_tokens):
            return
        before = self.num_rows, self.row_tokens
        self._written += [0] * (rows - len(self._written))
        # Until all layers have the new size: what the old and the new one have in common.
        self.num_rows, self.row_tokens = min(rows, before[0]), min(tokens, before[1])
        for layer in self.slots:
            layer.resize(rows, tokens)
        self.num_rows, self.row_tokens = rows, tokens

    def open(self, first: int, places: Tensor, ends: Sequence[int]) -> None:
        """What the next forward pass writes and reads: rows from `first` on.

        Args:
            first: row.
            places: `[B, Q]` of the new tokens.
            ends: tokens of each row after the pass.
        """
        self.window = first, first + len(ends), places, max(ends)
        for row, end in enumerate(ends, first):
            self._written[row] = max(self._written[row], end)

    def put(self, row: int, prefix: Tensor | None) -> None:
        """Start a row with keys and values `[layers, 2, heads, P, width]`, if any, and zeros.

        What a mask hides still spoils a sum where it is not a number, so nothing may be left of a
        row whose numbers overflowed.
        """
        length = 0 if prefix is None else prefix.shape[3]
        # As it was until all is done: what fails on the way may have written anything.
        end = self._written[row] = max(length, self._written[row])
        for number, layer in enumerate(self.slots):
            if prefix is not None:
                keys, values = prefix[number]
                if not layer.is_initialized:
                    layer.lazy_initialization(keys[None], values[None])
                layer.keys[row, :, :length] = keys
                layer.values[row, :, :length] = values
            if layer.is_initialized:
                layer.keys[row, :, length:end] = 0
                layer.values[row, :, length:end] = 0
        self._written[row] = length

    def spoil(self, row: int) -> None:
        """A row may hold anything anywhere: all of it is cleared before it is used again."""
        self._written[row] = self.row_tokens

    def move(self, source: int, target: int) -> None:
        """Copy a row over another one."""
        written = self._written
        end = written[target] = max(written[source], written[target])
        for layer in self.slots:
            layer.keys[target, :, :end] = layer.keys[source, :, :end]
            layer.values[target, :, :end] = layer.values[source, :, :end]
        written[target] = written[source]

    def keep(self, rows: Sequence[int]) -> None:
        """Copy some rows to the front, in the order given."""
        chosen = list(rows)
        after = [self._written[row] for row in chosen]
        self._written[: len(chosen)] = [max(self._written, default=0)] * len(chosen)
        for layer in self.slots:
            if layer.is_initialized:
                layer.keys[: len(chosen)] = layer.keys[chosen]
                layer.values[: len(chosen)] = layer.values[chosen]
        self._written[: len(chosen)] = after

    def release(self) -> None:
        """Give all memory back."""
        self.num_rows = self.row_tokens = 0
        self._written = []
        for layer in self.slots:
            layer.is_initialized = False
            layer.keys = layer.values = torch.zeros(0)


def _resized(before: Tensor, rows: int, tokens: int) -> Tensor:
    shape = (rows, before.shape[1], tokens + 1, before.shape[3])
    if before.shape == shape:
        return before
    after = before.new_zeros(shape)
    kept, length = min(rows, len(before)), min(tokens, before.shape[2] - 1)
    after[:kept, :, :length] = before[:kept, :, :length]
    return after


def in_blocks(tokens: int) -> int:
    """Rounded up to whole blocks."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
