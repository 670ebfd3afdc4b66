"""Which correction serves a stream: the one whose images are recognised with least doubt.

The doubt is the entropy of the labels' probabilities, which test-time adaptation minimises by
gradients (Tent, ICLR 2021). Here a few corrections are compared on the same images, without any.
All are tried on a few images: those at the stream's beginning, some soon after them, when the
stream's statistics are known, then now and then, and wherever recognition has changed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

ChoiceT = TypeVar("ChoiceT")


@dataclass(frozen=True)
class ChoiceSettings:
    """One set of values for all data.

    Args:
        trial_images: on which everything is tried, to choose: in the first trial of a stream or
            after a surprise, and in later ones.
        margin: nats by which the mean doubt must be less than without a correction; a stream that
            nothing is wrong with stays as it is.
        soon: images between the first two trials.
        rest: images between later ones, by which they cost few runs of the encoder.
        surprise: nats by which the running doubt must differ from that in the trial for a new one.
        memory: weight of the newest image in the running doubt.
    """

    trial_images: tuple[int, int] = (8, 16)
    margin: float = 0.03
    soon: int = 24
    rest: int = 960
    surprise: float = 0.5
    memory: float = 0.1


class CorrectionChoice(Generic[ChoiceT]):
    """The choice of one stream.

    Args:
        choices: what may be done; the first is to do nothing.
        settings: of the choice.
    """

    def __init__(
        self, choices: Sequence[ChoiceT], settings: ChoiceSettings = ChoiceSettings()
    ) -> None:
        self._choices = tuple(choices)
        self._settings = settings
        self.chosen = self._choices[0]
        self._trials: list[dict[ChoiceT, float]] = []
        self._until_trial = 0
        self._is_first = True
        self._usual = self._running = math.nan
        """Mean doubt in the trials of the choice, and now."""

    def wanted(self) -> tuple[ChoiceT, ...]:
        """What is to be done with the next image: the chosen correction first."""
        if self._until_trial:
            return (self.chosen,)
        return self.chosen, *(choice for choice in self._choices if choice != self.chosen)

    def observe(self, doubts: Mapping[ChoiceT, float]) -> None:
        """Take the doubt, in nats, about an image after each of `wanted`."""
        if not all(map(math.isfinite, doubts.values())):
            return
        if not self._until_trial:
            self._trials.append(dict(doubts))
            if len(self._trials) == self._settings.trial_images[not self._is_first]:
                self._choose()
            return
        self._until_trial -= 1
        self._running += self._settings.memory * (doubts[self.chosen] - self._running)
        if abs(self._running - self._usual) > self._settings.surprise:
            self._until_trial, self._is_first = 0, True

    def _choose(self) -> None:
        mean = {
            choice: float(np.mean([trial[choice] for trial in self._trials]))
            for choice in self._choices
        }
        nothing = self._choices[0]
        best = min(mean, key=lambda choice: mean[choice])
        is_better = mean[nothing] - mean[best] > self._settings.margin
        self.chosen = best if is_better else nothing
        self._usual = self._running = mean[self.chosen]
        self._trials = []
        self._until_trial = self._settings.soon if self._is_first else self._settings.rest
        self._is_first = False
