"""A batch that answers join and leave between tokens.

Every answer is computed as if it ran alone: its own row of keys and values, its own positions, and
a mask that shows it nothing else. Keys and values are written in place, and lengths grow only after
a pass that went through.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from transformers import DynamicCache

from cloud_server.engine.transformers.slots import BLOCK_TOKENS, SlotCache, in_blocks


class Mark(NamedTuple):
    """How far each row was, and what it may hold at most."""

    lengths: tuple[int, ...]
    needs: tuple[int, ...]


class RunningBatch:
    """Rows of one language model, in the order they joined but for gaps filled by the last.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`.
        max_rows: answers at once.
        max_tokens: of all rows together, the space for answers to come included.
    """

    def __init__(self, llava: Any, max_rows: int, max_tokens: int) -> None:
        self._llava = llava
        self._model = llava.model.language_model
        self._cache = SlotCache(llava.config.text_config.num_hidden_layers)
        self.max_rows = max_rows
        self.max_tokens = max_tokens
        self._lengths: list[int] = []
        self._needs: list[int] = []

    def __len__(self) -> int:
        return len(self._lengths)

    @property
    def longest(self) -> int:
        """Tokens that one row may hold, prompt and answer: memory comes in whole blocks."""
        return self.max_tokens // BLOCK_TOKENS * BLOCK_TOKENS

    def mark(self) -> Mark:
        """The rows as they are, for `restore`."""
        return Mark(tuple(self._lengths), tuple(self._needs))

    def restore(self, mark: Mark) -> None:
        """Make a pass that failed undone: it may be repeated, as it writes the same to the same
        places. Rows that joined or grew since are as before; none may have left."""
        self._lengths, self._needs = list(mark.lengths), list(mark.needs)

    def fits(self, needs: Sequence[int]) -> bool:
        """Could rows that will hold so many tokens join now?"""
        rows = len(self) + len(needs)
        longest = in_blocks(max([*self._needs, *needs]))
        return rows <= self.max_rows and rows * longest <= self.max_tokens

    @torch.inference_mode()
    def prefix(self, embeds: Tensor) -> Tensor:
        """Keys and values `[layers, 2, heads, P, width]` of embeddings `[P, H]`, for many rows."""
        cache = DynamicCache(config=self._llava.config.text_config)
        self._model(inputs_embeds=embeds[None], past_key_values=cache, use_cache=True)
        return torch.stack(
            [torch.stack([layer.keys[0], layer.values[0]]) for layer in cache.layers]
        )

    @torch.inference_mode()
    def join(
        self, prefixes: Sequence[Tensor | None], embeds: Sequence[Tensor], needs: Sequence[int]
    ) -> Tensor:
        """Add rows; returns the logits of their first tokens, `[K, V]`.

        Args:
            prefixes: of each row, from `prefix`; None where nothing comes before `embeds`.
            embeds: what follows in each, `[T, H]`, at least one token.
            needs: tokens that each will hold at most.
        """
        first = len(self)
        rows = first + len(needs)
        tokens = in_blocks(max([*self._needs, *needs]))
        cache = self._cache
        if rows > cache.num_rows or tokens > cache.row_tokens:
            if rows * cache.row_tokens <= self.max_tokens:
                tokens = max(tokens, cache.row_tokens)
            spare = min(self.max_rows, self.max_tokens // tokens, 2 * cache.num_rows)
            cache.reserve(max(rows, spare), tokens)
        starts = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        for row, prefix in enumerate(prefixes, first):
            cache.put(row, prefix)
        counts = [len(own) for own in embeds]
        padded = torch.nn.utils.rnn.pad_sequence(list(embeds), batch_first=True)
        logits = self._forward(padded, first, starts, counts)
        self._lengths += [start + count for start, count in zip(starts, counts, strict=True)]
        self._needs += needs
        return logits

    @torch.inference_mode()
    def step(self, tokens: Sequence[int]) -> Tensor:
        """One more token for every row; returns the logits of the next, `[B, V]`."""
        return self._next(tokens, 0)

    @torch.inference_mode()
    def step_alone(self, row: int, token: int) -> Tensor:
        """The same for one row, logits `[1, V]`; the others stay as they are."""
        return self._next([token], row)

    def spoil(self, row: int) -> None:
        """The model failed over a row, which is to leave: nothing of it may stay."""
        self._cache.spoil(row)

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = len(self) - 1
        if row != last:
            self._cache.move(last, row)
            self._lengths[row], self._needs[row] = self._lengths[last], self._needs[last]
        del self._lengths[last], self._needs[last]

    @torch.inference_mode()
    def keep(self, rows: Sequence[int]) -> None:
        """Only these rows, in this order. Copies them all: `leave` is faster."""
        self._cache.keep(rows)
        lengths, needs = self._lengths, self._needs
        self._lengths = [lengths[row] for row in rows]
        self._needs = [needs[row] for row in rows]

    def clear(self) -> None:
        """Remove all rows, and give their memory back."""
        self._lengths, self._needs = [], []
        self._cache.release()

    def _next(self, tokens: Sequence[int], first: int) -> Tensor:
        ids = torch.tensor(tokens, device=self._llava.device)[:, None]
        embeds: Tensor = self._llava.get_input_embeddings()(ids)
        end = first + len(tokens)
        lengths = self._lengths[first:end]
        logits = self._forward(embeds, first, lengths, [1] * len(lengths))
        self._lengths[first:end] = [length + 1 for length in lengths]
        return logits

    def _forward(
        self, embeds: Tensor, first: int, starts: Sequence[int], counts: Sequence[int]
    ) -> Tensor:
        """Logits `[B, V]` after the last token of rows from `first` on; row b of `embeds`
        `[B, Q, H]` holds `counts[b]` tokens that follow `starts[b]` others."""
        device = embeds.device
        length = embeds.shape[1]
        start = torch.tensor(starts, device=device)[:, None]
        count = torch.tensor(counts, device=device)[:, None]
        steps = torch.arange(length, device=device)
        padding = steps >= count
        positions = torch.where(padding, 0, start + steps)
        places = torch.where(padding, self._cache.row_tokens, start + steps)
        ends_at = [a + b for a, b in zip(starts, counts, strict=True)]
        self._cache.open(first, places, ends_at)
        visible = torch.arange(max(ends_at), device=device) <= positions[:, :, None]
        out = self._model(
            inputs_embeds=embeds,
            attention_mask=visible[:, None],
            position_ids=positions,
            past_key_values=self._cache,
            use_cache=True,
        )
        ends = (count[:, 0] - 1, torch.arange(len(embeds), device=device))
        logits: Tensor = self._llava.lm_head(out.last_hidden_state[ends[1], ends[0]])
        return logits
