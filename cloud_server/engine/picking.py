"""From logits to the next token, for answers that sample each in their own way."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from aligned_vq.answers import Sampling


class Picker:
    """Chooses the tokens of one answer; repeatable with a seed, whatever runs beside it."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.greedy = sampling.temperature == 0
        self._sampling = sampling
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**63)

    def sample(self, logits: Tensor) -> int:
        """A token by temperature and top_p from logits `[V]`."""
        share = torch.softmax(logits.float() / self._sampling.temperature, dim=-1)
        ranked, order = share.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= self._sampling.top_p] = 0
        return int(order[torch.multinomial(ranked, 1, generator=self._random)])


def pick(logits: Tensor, pickers: Sequence[Picker]) -> list[int]:
    """The next token of every answer, from logits `[B, V]`."""
    tokens: list[int] = logits.argmax(-1).tolist()
    for row, picker in enumerate(pickers):
        if not picker.greedy:
            tokens[row] = picker.sample(logits[row])
    return tokens
