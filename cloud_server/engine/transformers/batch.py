"""Continuous batching: answers join and leave the batch between tokens.

Every answer is computed as if it ran alone: it has its own row of keys and values, its own
positions, and a mask that hides everything else. Keys and values are written in place, and lengths
grow only after a successful pass, so a failed pass can be repeated.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from cloud_server.engine.transformers.slots import BLOCK_TOKENS, SlotCache, in_blocks


class Savepoint(NamedTuple):
    """The lengths and reservations of all rows, in tokens."""

    lengths: tuple[int, ...]
    reservations: tuple[int, ...]


class RunningBatch:
    """The rows of one language model. A row that leaves is replaced by the last one.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        max_rows: most concurrent answers.
        max_tokens: tokens of all rows together, including those reserved for the answers.
    """

    def __init__(self, llava: Any, max_rows: int, max_tokens: int) -> None:
        self._llava = llava
        self._model = llava.model.language_model
        self._cache = SlotCache(llava.config.text_config.num_hidden_layers)
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self._lengths: list[int] = []
        self._reservations: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def max_row_tokens(self) -> int:
        """Most tokens of one row, prompt and answer, as memory comes in whole blocks."""
        return self.max_tokens // BLOCK_TOKENS * BLOCK_TOKENS

    def savepoint(self) -> Savepoint:
        """The state to `restore` if the next pass fails."""
        return Savepoint(tuple(self._lengths), tuple(self._reservations))

    def restore(self, savepoint: Savepoint) -> None:
        """Undo a failed pass. Keys and values need no undoing, as a repeated pass overwrites the
        same columns. No row may have left since the savepoint."""
        self._lengths, self._reservations = list(savepoint.lengths), list(savepoint.reservations)

    def fits(self, reservations: Sequence[int]) -> bool:
        """Whether rows that will hold at most `reservations` tokens can join now."""
        rows = len(self) + len(reservations)
        longest = in_blocks(max([*self._reservations, *reservations]))
        # Rows share one block of memory, so each has the length of the longest.
        return rows <= self.max_rows and rows * longest <= self.max_tokens

    @torch.inference_mode()
    def prefix(self, embeds: Tensor) -> Tensor:
        """Keys and values `[layers, 2, heads, P, width]` of embeddings `[P, H]`."""
        # A separate cache: the image's keys and values do not depend on any row.
        cache = DynamicCache(config=self._llava.config.text_config)
        self._model(inputs_embeds=embeds[None], past_key_values=cache, use_cache=True)
        return torch.stack(
            [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
        )

    @torch.inference_mode()
    def join(
        self,
        prefixes: Sequence[Tensor | None],
        embeds: Sequence[Tensor],
        reservations: Sequence[int],
    ) -> Tensor:
        """Add K rows; returns the logits `[K, V]` of their first tokens.

        Args:
            prefixes: each row's keys and values, from `prefix`; None for a row without a prefix.
            embeds: each row's embeddings `[T, H]` after the prefix, at least one token.
            reservations: most tokens of each row.
        """
        first = len(self)
        rows = first + len(reservations)
        tokens = in_blocks(max([*self._reservations, *reservations]))
        cache = self._cache
        if rows > cache.num_rows or tokens > cache.row_tokens:
            # Do not shrink rows while memory allows: the next long answer would grow them again.
            if rows * cache.row_tokens <= self.max_tokens:
                tokens = max(tokens, cache.row_tokens)
            # Grow by doubling, so that joining one by one does not copy the block each time.
            spare = min(self.max_rows, self.max_tokens // tokens, 2 * cache.num_rows)
            cache.reserve(max(rows, spare), tokens)
        starts = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        for row, prefix in enumerate(prefixes, first):
            cache.put(row, prefix)
        # Rows of different lengths share one pass, padded to the longest.
        counts = [len(tail) for tail in embeds]
        padded = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
        logits = self._forward(padded, first, starts, counts)
        self._lengths += [start + count for start, count in zip(starts, counts, strict=True)]
        self._reservations += reservations
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """Append a token to every row; returns the logits `[B, V]` of the next ones."""
        return self._next(tokens, 0)

    @torch.inference_mode()
    def step_alone(self, row: int, token: int) -> Tensor:
        """Append a token to one row; returns the logits `[1, V]` of the next one."""
        return self._next([token], row)

    def invalidate(self, row: int) -> None:
        """Mark the contents of a row as unusable after a failure; the row must leave."""
        self._cache.invalidate(row)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Remove a row; the last row moves into its place."""
        last = len(self) - 1
        if row != last:
            self._cache.move(last, row)
            self._lengths[row], self._reservations[row] = (
                self._lengths[last],
                self._reservations[last],
            )
        del self._lengths[last], self._reservations[last]

    @torch.inference_mode()
    def retain(self, rows: Sequence[int]) -> None:
        """Retain only these rows, in this order. Copies all of them: `leave` is faster."""
        self._cache.retain(rows)
        lengths, reservations = self._lengths, self._reservations
        self._lengths = [lengths[row] for row in rows]
        self._reservations = [reservations[row] for row in rows]

    def clear(self) -> None:
        """Remove all rows and free their memory."""
        self._lengths, self._reservations = [], []
        self._cache.release()

    def _next(self, tokens: Sequence[int], first: int) -> Tensor:
        ids = torch.tensor(tokens, device=self._llava.device)[:, None]  # [B, 1]
        embeds: Tensor = self._llava.get_input_embeddings()(ids)
        end = first + len(tokens)
        lengths = self._lengths[first:end]
        logits = self._forward(embeds, first, lengths, [1] * len(lengths))
        # Only now that the pass has succeeded, see `restore`.
        self._lengths[first:end] = [length + 1 for length in lengths]
        return logits

    def _forward(
        self, embeds: Tensor, first: int, starts: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """Logits `[B, V]` after the last new token of B rows from row `first` on.

        Args:
            embeds: new tokens `[B, Q, H]`; row b has `counts[b]` of them, then padding.
            first: first row.
            starts: tokens that each row holds already.
            counts: new tokens of each row.
        """
        device = embeds.device
        length = embeds.shape[1]
        start = torch.tensor(starts, device=device)[:, None]
        count = torch.tensor(counts, device=device)[:, None]
        steps = torch.arange(length, device=device)  # [Q]
        padding = steps >= count  # [B, Q]
        # Padding gets position 0, which always exists; its output is not used.
        positions = torch.where(padding, 0, start + steps)
        # Padding is written to the extra last column, which no mask shows, so that all rows can be
        # written by one indexed assignment.
        columns = torch.where(padding, self._cache.row_tokens, start + steps)
        ends_at = [start + count for start, count in zip(starts, counts, strict=True)]
        self._cache.set_window(first, columns, ends_at)
        # A token sees its row's columns up to its own position: column index equals position.
        visible = torch.arange(max(ends_at), device=device) <= positions[:, :, None]
        out = self._model(
            inputs_embeds=embeds,
            attention_mask=visible[:, None],  # [B, 1, Q, extent], for all heads
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        # The last new token of each row alone, [B, H]: the head over the vocabulary is large.
        rows = torch.arange(len(embeds), device=device)
        logits: Tensor = self._llava.lm_head(out.last_hidden_state[rows, count[:, 0] - 1])
        return logits
