"""What the next symbol is conditioned on: all that the decoder already knows around its token.

Token 0 is the class token and the others a square grid in raster order; tokens that are not one
more than a square number are a single row. Every feature is a small number per token, 0 where there
is nothing to know, and the context is the number that the features in use spell together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.types import Encoded, Mask

Conditioning = Literal["static", "position", "neighbours"]
Feature = Literal["class_token", "place", "own", "before", "left", "upper"]
Numbers = NDArray[np.int64]

FEATURES: tuple[Feature, ...] = ("class_token", "place", "own", "before", "left", "upper")
"""The last two depend on the stage being coded, and all others are known before it begins.

class_token: whether it is the class token. place: class token, border, inside. own: what the
nearest earlier stage that covers the token said of it. before: whether the preceding stage covers
the token. left, upper: what this stage said of that neighbour; for masks, whether it covers it.
"""


class Grid(NamedTuple):
    """Neighbours int64 `[N]`, N for none, and places int64 `[N]`: 0 class, 1 border, 2 inside."""

    left: Numbers
    upper: Numbers
    place: Numbers


@lru_cache(maxsize=8)
def grid_of(num_tokens: int) -> Grid:
    """The grid of an image's tokens; not to be written to."""
    left, upper = (np.full(num_tokens, num_tokens) for _ in range(2))
    place = np.full(num_tokens, 2)
    side = math.isqrt(num_tokens - 1)
    if side * side != num_tokens - 1:
        left[1:] = np.arange(num_tokens - 1)
        place[[0, -1]] = 1
        return Grid(left, upper, place)
    tokens = np.arange(1, num_tokens).reshape(side, side)
    left[tokens[:, 1:]] = tokens[:, :-1]
    upper[tokens[1:]] = tokens[:-1]
    for edge in (tokens[:1], tokens[-1:], tokens[:, :1], tokens[:, -1:]):
        place[edge] = 1
    place[0] = 0
    return Grid(left, upper, place)


@dataclass(frozen=True)
class Rule:
    """How features spell a context: `sizes` has the values of each of FEATURES, 1 if not in use."""

    sizes: tuple[int, ...]

    @property
    def num_contexts(self) -> int:
        """Contexts are 0 to this, exclusive."""
        return math.prod(self.sizes)

    def weight(self, feature: Feature) -> int:
        """What one step of the feature adds to the context, 0 if it is not in use."""
        at = FEATURES.index(feature)
        return math.prod(self.sizes[:at]) if self.sizes[at] > 1 else 0

    def base(self, grid: Grid, own: Numbers, before: Numbers) -> Numbers:
        """The part `[N]` of the contexts that is known before the stage is coded."""
        known: dict[Feature, NDArray[np.generic]] = {
            "class_token": grid.place == 0,
            "place": grid.place,
            "own": own,
            "before": before,
        }
        total = np.zeros(len(own), np.int64)
        for feature, values in known.items():
            total += self.weight(feature) * values.astype(np.int64)
        return total

    def contexts(self, grid: Grid, base: Numbers, said: Numbers) -> Numbers:
        """The contexts `[N]`, from what the stage says `[N + 1]` of each token and of none."""
        left, upper = said[grid.left], said[grid.upper]
        return base + self.weight("left") * left + self.weight("upper") * upper


class StageRules(NamedTuple):
    """The rules of one stage for its indices and its mask, and the classes `[G, K]` of entries."""

    indices: Rule
    mask: Rule
    class_of: NDArray[np.uint8]

    @property
    def num_classes(self) -> int:
        """Classes of this stage's entries."""
        return int(self.class_of.max()) + 1


def stage_rules(
    features: Sequence[NDArray[np.uint8]], classes: Sequence[NDArray[np.uint8]]
) -> list[StageRules]:
    """The rules of all stages.

    Args:
        features: per stage, which of FEATURES `[2, F]` are in use: for indices, for the mask.
        classes: per stage, the class of every entry `[G, K]`.
    """
    rules, own = [], 1
    for uses, class_of in zip(features, classes, strict=True):
        said = int(class_of.max()) + 2
        index, mask = (2, 3, own, 2, said, said), (2, 3, own, 2, 2, 2)
        rules.append(StageRules(_used(index, uses[0]), _used(mask, uses[1]), class_of))
        own += said - 1
    return rules


def _used(sizes: Sequence[int], uses: NDArray[np.uint8]) -> Rule:
    return Rule(tuple(size if use else 1 for size, use in zip(sizes, uses, strict=True)))


class Past:
    """What the stages so far said of each token: `own` int64 `[G, N]` and `before` int64 `[N]`."""

    def __init__(self, num_tokens: int, groups: int) -> None:
        self.own = np.zeros((groups, num_tokens), np.int64)
        self.before = np.zeros(num_tokens, np.int64)
        self._next = 1

    def add(self, rules: StageRules, indices: NDArray[np.integer], mask: Mask | None) -> Numbers:
        """Takes note of a stage.

        Args:
            rules: of the stage.
            indices: its indices `[n, G]`.
            mask: its mask `[N]`, None for all tokens.

        Returns:
            What it says `[G, N + 1]` of each token and of none: 1 + class, 0 where it is silent.
        """
        groups, num_tokens = self.own.shape
        covered = np.ones(num_tokens, np.bool_) if mask is None else mask
        classes = rules.class_of[np.arange(groups), indices].T.astype(np.int64)
        said = np.zeros((groups, num_tokens + 1), np.int64)
        said[:, :-1][:, covered] = 1 + classes
        self.own[:, covered] = self._next + classes
        self.before = covered.astype(np.int64)
        self._next += rules.num_classes
        return said


class StageWalk(NamedTuple):
    """The contexts of one stage: `[n, G]` for its indices, `[N]` for its mask, None without bits.

    A mask has no bits in the code where there is none and where it covers nothing.
    """

    indices: Numbers
    mask: Numbers | None


def walk(encoded: Encoded, rules: Sequence[StageRules]) -> Iterator[StageWalk]:
    """The contexts of every stage of an `Encoded` that fits the rules, in order."""
    grid = grid_of(encoded.num_tokens)
    past = Past(encoded.num_tokens, len(rules[0].class_of))
    for stage, rule in zip(encoded.stages, rules, strict=False):
        index_bases = [rule.indices.base(grid, own, past.before) for own in past.own]
        mask_base = rule.mask.base(grid, past.own[0], past.before)
        said = past.add(rule, stage.indices, stage.mask)
        contexts = np.stack(
            [rule.indices.contexts(grid, *pair) for pair in zip(index_bases, said, strict=True)],
            axis=1,
        )
        if stage.mask is None:
            yield StageWalk(contexts, None)
            continue
        covers = np.append(stage.mask, False).astype(np.int64)
        bits = rule.mask.contexts(grid, mask_base, covers) if stage.mask.any() else None
        yield StageWalk(contexts[stage.mask], bits)
