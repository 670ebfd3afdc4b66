"""Picks the next token from logits, with individual sampling settings per answer."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError

_FLOAT32 = torch.finfo(torch.float32)


class Picker:
    """Picks the tokens of one answer; repeatable with a seed, whatever else is in the batch.

    Safe for any temperature: values outside of float32's normal range are clamped to it, and the
    most likely token can always be picked.

    Args:
        sampling: temperature, top_p and seed.
        device: device of the logits.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.greedy = not sampling.temperature > 0
        self._temperature = min(max(sampling.temperature, _FLOAT32.tiny), _FLOAT32.max)
        self._top_p = sampling.top_p
        # A generator per answer, so that other answers of the batch do not change its numbers.
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**64)

    def sample(self, logits: Tensor) -> int:
        """Sample a token id from logits `[V]`, the largest of which is finite."""
        scores = logits.float()
        # Subtract the largest before dividing: with a tiny temperature it becomes 0 and the others
        # -inf, instead of inf and NaN.
        probabilities = torch.softmax((scores - scores.max()) / self._temperature, dim=-1)
        ranked, order = probabilities.sort(descending=True)
        if self._top_p < 1:
            # Probability of all more likely tokens; the first token is never masked out.
            more_likely = ranked.cumsum(0) - ranked
            ranked[1:].masked_fill_(more_likely[1:] >= self._top_p, 0)
        # `multinomial` normalises the weights; `order` leads from ranks back to token ids.
        return int(order[torch.multinomial(ranked, 1, generator=self._random)])


def pick(logits: Tensor, pickers: Sequence[Picker]) -> list[int | Exception]:
    """The next token of every answer from logits `[B, V]`, or the error that ends the answer."""
    best = logits.argmax(-1)
    # argmax prefers NaN and infinity, so the largest logit alone shows whether all are usable.
    largest = logits.gather(1, best[:, None]).tolist()
    picked: list[int | Exception] = best.tolist()
    for row, picker in enumerate(pickers):
        if not math.isfinite(largest[row][0]):
            picked[row] = EngineError(
                "expected finite logits from the language model, got NaN or infinity on this "
                "question; reword it or ask about another image"
            )
        elif not picker.greedy:
            try:
                picked[row] = picker.sample(logits[row])
            except Exception as error:  # noqa: BLE001 - ends that answer
                picked[row] = error
    return picked
