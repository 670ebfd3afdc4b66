"""Forward passes that rows of a batch share, repeated row by row where one fails.

So what is wrong with one row ends that row alone, at the price of one slow pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.picking import Picker, pick

Picked = int | Exception
"""The next token of an answer, or what went wrong with it."""


class Joining(NamedTuple):
    """A row to be: keys and values of its image, if any, embeddings `[T, H]` of what follows, the
    tokens it will hold at most, and what picks its tokens."""

    prefix: Tensor | None
    tail: Tensor
    need: int
    picker: Picker


class Joined(NamedTuple):
    """By place among those that were to join: first tokens of those that did, in their order, and
    why the others did not."""

    tokens: dict[int, Picked]
    failures: dict[int, Exception]


def join(batch: RunningBatch, rows: Sequence[Joining]) -> Joined:
    """Add rows. No other row notices, whatever happens."""
    before = batch.mark()
    try:
        return Joined(dict(enumerate(_join(batch, rows))), {})
    except Exception as error:  # noqa: BLE001 - looked for row by row
        batch.restore(before)
        if len(rows) == 1:
            return Joined({}, {0: error})
    found = Joined({}, {})
    for place, row in enumerate(rows):
        before = batch.mark()
        try:
            (found.tokens[place],) = _join(batch, [row])
        except Exception as error:  # noqa: BLE001 - ends that row
            batch.restore(before)
            found.failures[place] = error
    return found


def step(batch: RunningBatch, tokens: Sequence[int], pickers: Sequence[Picker]) -> list[Picked]:
    """The token that follows in every row. A row that failed has to leave."""
    before = batch.mark()
    try:
        return pick(batch.step(tokens), pickers)
    except Exception as error:  # noqa: BLE001 - looked for row by row
        batch.restore(before)
        if len(tokens) == 1:
            return [error]
    found: list[Picked] = []
    for row, (token, picker) in enumerate(zip(tokens, pickers, strict=True)):
        try:
            found += pick(batch.step_alone(row, token), [picker])
        except Exception as error:  # noqa: BLE001 - ends that row
            found.append(error)
    return found


def _join(batch: RunningBatch, rows: Sequence[Joining]) -> list[Picked]:
    prefixes, tails, needs, pickers = zip(*rows, strict=True)
    return pick(batch.join(prefixes, tails, needs), pickers)
