"""Context rules: how already decoded symbols determine the context of the next symbol.

Token 0 is the class token; the others form a square grid in raster order, or one row if their
number is not a square. A feature is a small integer per token, 0 if it is not available. The
features in use are the digits of the context number, in a mixed radix.

A token's label in a stage is 1 + the class of its entry, or 0 if the stage does not cover it.
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
Feature = Literal["class_token", "region", "latest", "previous", "left", "upper"]
IntArray = NDArray[np.int64]

FEATURES: tuple[Feature, ...] = ("class_token", "region", "latest", "previous", "left", "upper")
"""Their order is part of the file format of tables.

class_token: 1 for the class token. region: 0 class token, 1 border, 2 interior. latest: the label
in the last earlier stage that covers the token, with numbers that are distinct for each stage.
previous: 1 if the preceding stage covers the token. left, upper: the neighbour's label in the
current stage; for mask bits, 1 if the stage covers the neighbour.
"""


class Grid(NamedTuple):
    """Neighbours and regions of the tokens, int64 `[N]` each."""

    left: IntArray
    """Token number of the left neighbour; N: none."""
    upper: IntArray
    """Token number of the upper neighbour; N: none."""
    region: IntArray
    """0 class token, 1 border, 2 interior."""


@lru_cache(maxsize=8)
def grid_of(num_tokens: int) -> Grid:
    """The grid of an image's tokens; cached, so callers must not write to it."""
    # N, one behind the last token, where labels have an additional 0.
    left, upper = (np.full(num_tokens, num_tokens) for _ in range(2))
    region = np.full(num_tokens, 2)
    side = math.isqrt(num_tokens - 1)
    if side * side != num_tokens - 1:
        # One row, in which the class token is an ordinary first token.
        left[1:] = np.arange(num_tokens - 1)
        region[[0, -1]] = 1
        return Grid(left, upper, region)
    tokens = np.arange(1, num_tokens).reshape(side, side)
    left[tokens[:, 1:]] = tokens[:, :-1]
    upper[tokens[1:]] = tokens[:-1]
    for edge in (tokens[:1], tokens[-1:], tokens[:, :1], tokens[:, -1:]):
        region[edge] = 1
    region[0] = 0
    return Grid(left, upper, region)


@dataclass(frozen=True)
class Rule:
    """How features determine context numbers, as digits in a mixed radix."""

    sizes: tuple[int, ...]
    """Number of values of each of FEATURES; 1: not in use."""

    @property
    def num_contexts(self) -> int:
        """Contexts are numbered from 0 to this, exclusive."""
        return math.prod(self.sizes)

    def weight(self, feature: Feature) -> int:
        """The place value of the feature's digit; 0 if it is not in use."""
        position = FEATURES.index(feature)
        return math.prod(self.sizes[:position]) if self.sizes[position] > 1 else 0

    def base(self, grid: Grid, latest: IntArray, previous: IntArray) -> IntArray:
        """The part `[N]` of the context numbers that does not depend on the current stage."""
        digits: dict[Feature, NDArray[np.generic]] = {
            "class_token": grid.region == 0,
            "region": grid.region,
            "latest": latest,
            "previous": previous,
        }
        total = np.zeros(len(latest), np.int64)
        for feature, values in digits.items():
            total += self.weight(feature) * values.astype(np.int64)
        return total

    def contexts(self, grid: Grid, base: IntArray, labels: IntArray) -> IntArray:
        """The context numbers `[N]`.

        Args:
            grid: of the tokens.
            base: the result of `base`, `[N]`.
            labels: the tokens' labels in the current stage `[N + 1]`; the last is 0, for tokens
                without a neighbour.
        """
        left, upper = labels[grid.left], labels[grid.upper]
        return base + self.weight("left") * left + self.weight("upper") * upper


class StageRules(NamedTuple):
    """The rules of one stage for indices and mask bits, and the entries' classes `[G, K]`."""

    indices: Rule
    mask: Rule
    class_of: NDArray[np.uint8]

    @property
    def num_classes(self) -> int:
        """Number of classes of this stage's entries."""
        return int(self.class_of.max()) + 1


def stage_rules(
    features: Sequence[NDArray[np.uint8]], classes: Sequence[NDArray[np.uint8]]
) -> list[StageRules]:
    """The rules of all stages.

    Args:
        features: per stage, flags `[2, F]` of the FEATURES in use: for indices, for the mask.
        classes: per stage, the class of every entry `[G, K]`.
    """
    rules, num_latest = [], 1
    for flags, class_of in zip(features, classes, strict=True):
        # Classes 0 to max, and one more label for tokens that are not covered.
        num_labels = int(class_of.max()) + 2
        # Digits in the order of FEATURES.
        index_sizes = (2, 3, num_latest, 2, num_labels, num_labels)
        mask_sizes = (2, 3, num_latest, 2, 2, 2)
        rules.append(
            StageRules(_select(index_sizes, flags[0]), _select(mask_sizes, flags[1]), class_of)
        )
        # `latest` distinguishes stages, so each adds its classes to the range of values.
        num_latest += num_labels - 1
    return rules


def _select(sizes: Sequence[int], flags: NDArray[np.uint8]) -> Rule:
    return Rule(tuple(size if flag else 1 for size, flag in zip(sizes, flags, strict=True)))


class History:
    """The features `latest`, int64 `[G, N]`, and `previous`, int64 `[N]`, after some stages."""

    def __init__(self, num_tokens: int, groups: int) -> None:
        self.latest = np.zeros((groups, num_tokens), np.int64)
        self.previous = np.zeros(num_tokens, np.int64)
        self._first_free = 1

    def add(self, rules: StageRules, indices: NDArray[np.integer], mask: Mask | None) -> IntArray:
        """Add a stage.

        Args:
            rules: of the stage.
            indices: its indices `[n, G]`.
            mask: its mask `[N]`; None: all tokens.

        Returns:
            The labels `[G, N + 1]` of its tokens; the last is 0, for tokens without a neighbour.
        """
        groups, num_tokens = self.latest.shape
        covered = np.ones(num_tokens, np.bool_) if mask is None else mask
        # [G] and [n, G] broadcast to [n, G]; transposed to [G, n].
        classes = rules.class_of[np.arange(groups), indices].T.astype(np.int64)
        labels = np.zeros((groups, num_tokens + 1), np.int64)
        labels[:, :-1][:, covered] = 1 + classes  # the last column stays 0
        self.latest[:, covered] = self._first_free + classes
        self.previous = covered.astype(np.int64)
        self._first_free += rules.num_classes
        return labels


class ContextNumbers(NamedTuple):
    """The contexts of one stage."""

    indices: IntArray
    """`[n, G]`, of the indices."""
    mask: IntArray | None
    """`[N]`, of the mask bits; None if no bits are coded: without a mask, or with an empty one."""


def iter_contexts(encoded: Encoded, rules: Sequence[StageRules]) -> Iterator[ContextNumbers]:
    """The contexts of every stage of an encoded image, in order."""
    grid = grid_of(encoded.num_tokens)
    history = History(encoded.num_tokens, len(rules[0].class_of))
    for stage, rule in zip(encoded.stages, rules, strict=False):
        # Before `add`: the decoder knows no more than the earlier stages either.
        index_bases = [rule.indices.base(grid, row, history.previous) for row in history.latest]
        mask_base = rule.mask.base(grid, history.latest[0], history.previous)
        labels = history.add(rule, stage.indices, stage.mask)
        contexts = np.stack(
            [rule.indices.contexts(grid, *pair) for pair in zip(index_bases, labels, strict=True)],
            axis=1,
        )
        if stage.mask is None:
            yield ContextNumbers(contexts, None)
            continue
        covered = np.append(stage.mask, False).astype(np.int64)
        mask = rule.mask.contexts(grid, mask_base, covered) if stage.mask.any() else None
        yield ContextNumbers(contexts[stage.mask], mask)
