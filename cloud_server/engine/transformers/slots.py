"""Keys and values of all running answers in one preallocated block, a row each.

transformers' growing cache copies every row at every token, and pads all rows when one joins. Here
tokens are appended in place, a mask hides the unused rest of a row, and joining or leaving touches
that row alone. Rotary positions are applied to keys before they are stored, so their column in the
block does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

BLOCK_TOKENS = 128
"""Granularity of row lengths."""


class SlotLayer(CacheLayerMixin):  # type: ignore[misc]  # transformers is not typed
    """One layer, `[rows, heads, tokens + 1, width]`; the last column absorbs padding."""

    is_sliding = False
    is_croppable = False
    keys: Tensor
    values: Tensor

    def __init__(self, cache: SlotCache) -> None:
        super().__init__()
        self._cache = cache

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Allocate memory for the reserved rows."""
        shape = (self._cache.num_rows, key_states.shape[1], self._cache.row_tokens + 1)
        self.keys = key_states.new_zeros(*shape, key_states.shape[3])
        self.values = value_states.new_zeros(*shape, value_states.shape[3])
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Write new tokens `[B, heads, Q, width]`; returns what they may attend to, `[B, heads,
        extent, width]`."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        first, last, columns, extent = self._cache.window
        # Advanced indexing: row b's token q goes to column columns[b, q].
        rows = torch.arange(first, last, device=columns.device)[:, None]
        # Two index tensors around a slice put their axes first: [B, Q, heads, width].
        self.keys[rows, :, columns] = key_states.transpose(1, 2)
        self.values[rows, :, columns] = value_states.transpose(1, 2)
        return self.keys[first:last, :, :extent], self.values[first:last, :, :extent]

    def resize(self, rows: int, tokens: int) -> None:
        """Reallocate, and copy what fits. If memory runs out, nothing changes."""
        if self.is_initialized:
            self.keys, self.values = (
                _resized(before, rows, tokens) for before in (self.keys, self.values)
            )

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """The extent of the rows in the current pass; the batch passes the mask itself."""
        return self._cache.window[3], 0

    def get_seq_length(self) -> int:
        """The extent of the rows in the current pass."""
        return self._cache.window[3]

    def get_max_length(self) -> int:
        """Most tokens of a row."""
        return self._cache.row_tokens


class SlotCache(Cache):  # type: ignore[misc]
    """The layers, and the window of them that a forward pass writes and reads.

    Args:
        num_layers: of the language model.
    """

    def __init__(self, num_layers: int) -> None:
        self.num_rows = 0
        self.row_tokens = 0
        self.window: tuple[int, int, Tensor, int] = (0, 0, torch.zeros(0, 0, dtype=torch.int64), 0)
        """First row, end row, columns `[B, Q]` of the new tokens, and columns to read."""
        self._dirty: list[int] = []
        """Per row, how many leading columns may hold something other than zeros."""
        self.slots = [SlotLayer(self) for _ in range(num_layers)]
        super().__init__(layers=self.slots)

    def reserve(self, rows: int, tokens: int) -> None:
        """Resize to `rows` rows of `tokens` tokens. If memory runs out halfway, the part common to
        the old and the new size stays usable."""
        if (rows, tokens) == (self.num_rows, self.row_tokens):
            return
        before = self.num_rows, self.row_tokens
        self._dirty += [0] * (rows - len(self._dirty))
        # Layers are resized one by one; until all are done, only the common part is valid.
        self.num_rows, self.row_tokens = min(rows, before[0]), min(tokens, before[1])
        for layer in self.slots:
            layer.resize(rows, tokens)
        self.num_rows, self.row_tokens = rows, tokens

    def set_window(self, first: int, columns: Tensor, ends: Sequence[int]) -> None:
        """Set what the next forward pass writes and reads.

        Args:
            first: first row.
            columns: where to write the new tokens, `[B, Q]`.
            ends: tokens of each of the B rows after the pass.
        """
        self.window = first, first + len(ends), columns, max(ends)
        for row, end in enumerate(ends, first):
            self._dirty[row] = max(self._dirty[row], end)

    def put(self, row: int, prefix: Tensor | None) -> None:
        """Start a row, empty or with keys and values `[layers, 2, heads, P, width]`; zero the rest.

        Masked columns get weight 0, but 0 times NaN is NaN, so nothing may remain of a previous row
        that overflowed.
        """
        length = 0 if prefix is None else prefix.shape[3]
        # Claim the longer extent until done: after a failure halfway anything may be dirty there.
        end = self._dirty[row] = max(length, self._dirty[row])
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
        self._dirty[row] = length

    def invalidate(self, row: int) -> None:
        """Mark all of a row as dirty, so that it is cleared before it is used again."""
        self._dirty[row] = self.row_tokens

    def move(self, source: int, target: int) -> None:
        """Copy a row over another."""
        dirty = self._dirty
        # Copy past the source's end as well: zeros there clear what the target held before.
        end = dirty[target] = max(dirty[source], dirty[target])
        for layer in self.slots:
            layer.keys[target, :, :end] = layer.keys[source, :, :end]
            layer.values[target, :, :end] = layer.values[source, :, :end]
        dirty[target] = dirty[source]

    def retain(self, rows: Sequence[int]) -> None:
        """Copy some rows to the front, in this order."""
        chosen = list(rows)
        after = [self._dirty[row] for row in chosen]
        # Until every layer is copied, a row may hold the columns of any other one.
        self._dirty[: len(chosen)] = [max(self._dirty, default=0)] * len(chosen)
        for layer in self.slots:
            if layer.is_initialized:
                # Indexing by a list copies first, so that source and target may overlap.
                layer.keys[: len(chosen)] = layer.keys[chosen]
                layer.values[: len(chosen)] = layer.values[chosen]
        self._dirty[: len(chosen)] = after

    def release(self) -> None:
        """Free all memory."""
        self.num_rows = self.row_tokens = 0
        self._dirty = []
        for layer in self.slots:
            # Layers allocate again with the next pass.
            layer.is_initialized = False
            layer.keys = layer.values = torch.zeros(0)


def _resized(before: Tensor, rows: int, tokens: int) -> Tensor:
    shape = (rows, before.shape[1], tokens + 1, before.shape[3])
    if before.shape == shape:
        return before
    after = before.new_zeros(shape)
    common_rows, length = min(rows, len(before)), min(tokens, before.shape[2] - 1)
    after[:common_rows, :, :length] = before[:common_rows, :, :length]
    return after


def in_blocks(tokens: int) -> int:
    """The number of tokens rounded up to whole blocks."""
    return -(-tokens // BLOCK_TOKENS) * BLOCK_TOKENS
