"""From logits to the next token, for answers that sample each in their own way."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError

_FLOAT32 = torch.finfo(torch.float32)


class Picker:
    """Chooses the tokens of one answer; repeatable with a seed, whatever runs beside it.

    Holds for any setting, in whatever range: below float32's normal numbers a temperature is their
    smallest, above them their largest, and the likeliest token may always be chosen.
    """

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self.greedy = not sampling.temperature > 0
        self._temperature = min(max(sampling.temperature, _FLOAT32.tiny), _FLOAT32.max)
        self._top_p = sampling.top_p
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**64)

    def sample(self, logits: Tensor) -> int:
        """A token by temperature and top_p from logits `[V]`, the largest of which is finite."""
        below = logits.float()
        # Of the largest first: a tiny temperature then leaves 0 there and -inf at the others.
        share = torch.softmax((below - below.max()) / self._temperature, dim=-1)
        ranked, order = share.sort(descending=True)
        if self._top_p < 1:
            before = ranked.cumsum(0) - ranked
            ranked[1:].masked_fill_(before[1:] >= self._top_p, 0)
        return int(order[torch.multinomial(ranked, 1, generator=self._random)])


def pick(logits: Tensor, pickers: Sequence[Picker]) -> list[int | Exception]:
    """The next token of every answer from logits `[B, V]`, or what went wrong with that one."""
    best = logits.argmax(-1)
    # NaN and infinity win every comparison, so the largest logit is enough to look at.
    largest = logits.gather(1, best[:, None]).tolist()
    picked: list[int | Exception] = best.tolist()
    for row, picker in enumerate(pickers):
        if not math.isfinite(largest[row][0]):
            picked[row] = EngineError(
                "expected the language model's logits to be finite, got NaN or infinity on this "
                "question; reword it or ask about another image"
            )
        elif not picker.greedy:
            try:
                picked[row] = picker.sample(logits[row])
            except Exception as error:  # noqa: BLE001 - ends that answer
                picked[row] = error
    return picked
