"""Joint forward passes, which are repeated row by row if they fail.

So a failure caused by one row ends that row alone, at the price of one slow pass.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from torch import Tensor

from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.picking import Picker, pick

Picked = int | Exception
"""The next token of an answer, or the error that ends it."""


class Joining(NamedTuple):
    """A row to add to the batch: keys and values of its image, if any, embeddings `[T, H]` of what
    follows, the most tokens it will hold, and the picker of its tokens."""

    prefix: Tensor | None
    tail: Tensor
    max_tokens: int
    picker: Picker


class Joined(NamedTuple):
    """By index among the joining rows: the first tokens of those that joined, in order, and the
    errors of the others."""

    tokens: dict[int, Picked]
    failures: dict[int, Exception]


def join(batch: RunningBatch, rows: Sequence[Joining]) -> Joined:
    """Add rows, and pick their first tokens. Other rows are unaffected by any failure."""
    savepoint = batch.savepoint()
    try:
        return Joined(dict(enumerate(_join(batch, rows))), {})
    except Exception as error:  # noqa: BLE001 - may be due to one row alone
        batch.restore(savepoint)
        # A repetition of the same pass would fail again.
        if len(rows) == 1:
            return Joined({}, {0: error})
    result = Joined({}, {})
    for index, row in enumerate(rows):
        savepoint = batch.savepoint()
        try:
            (result.tokens[index],) = _join(batch, [row])
        except Exception as error:  # noqa: BLE001 - ends that row
            batch.restore(savepoint)
            result.failures[index] = error
    return result


def step(batch: RunningBatch, tokens: Sequence[int], pickers: Sequence[Picker]) -> list[Picked]:
    """Append a token to every row, and pick the next ones. A row that failed must leave."""
    savepoint = batch.savepoint()
    try:
        return pick(batch.step(tokens), pickers)
    except Exception as error:  # noqa: BLE001 - may be due to one row alone
        batch.restore(savepoint)
        if len(tokens) == 1:
            return [error]
    picked: list[Picked] = []
    for row, (token, picker) in enumerate(zip(tokens, pickers, strict=True)):
        try:
            picked += pick(batch.step_alone(row, token), [picker])
        except Exception as error:  # noqa: BLE001 - ends that row
            picked.append(error)
    return picked


def _join(batch: RunningBatch, rows: Sequence[Joining]) -> list[Picked]:
    prefixes, tails, reservations, pickers = zip(*rows, strict=True)
    return pick(batch.join(prefixes, tails, reservations), pickers)
