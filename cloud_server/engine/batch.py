"""A batch that answers join and leave between tokens.

Every answer is computed as if it ran alone: its own row of keys and values, its own positions, and
a mask that shows it nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from cloud_server.engine.slots import SlotCache, in_blocks


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
            tokens = max(tokens, cache.row_tokens)
            spare = min(self.max_rows, self.max_tokens // tokens, 2 * cache.num_rows)
            cache.reserve(max(rows, spare), tokens)
        starts = [0 if prefix is None else prefix.shape[3] for prefix in prefixes]
        for row, prefix in enumerate(prefixes, first):
            if prefix is not None:
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
        ids = torch.tensor(tokens, device=self._llava.device)[:, None]
        embeds: Tensor = self._llava.get_input_embeddings()(ids)
        logits = self._forward(embeds, 0, self._lengths, [1] * len(self))
        self._lengths = [length + 1 for length in self._lengths]
        return logits

    @torch.inference_mode()
    def leave(self, row: int) -> None:
        """Remove a row; the last one takes its place."""
        last = len(self) - 1
        if row != last:
            self._cache.move(last, row, self._lengths[last])
            self._lengths[row], self._needs[row] = self._lengths[last], self._needs[last]
        del self._lengths[last], self._needs[last]

    def clear(self) -> None:
        """Remove all rows, and give their memory back."""
        self._lengths, self._needs = [], []
        self._cache.release()

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
        extent = max(a + b for a, b in zip(starts, counts, strict=True))
        self._cache.window = (first, first + len(embeds), places, extent)
        visible = torch.arange(extent, device=device) <= positions[:, :, None]
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
