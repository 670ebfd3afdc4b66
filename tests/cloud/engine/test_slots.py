"""Rows of keys and values: what a row leaves behind never reaches the next one in its place."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from cloud_server.engine.transformers.slots import SlotCache

LAYERS, HEADS, WIDTH = 2, 3, 4


def prefix(length: int, value: float) -> Tensor:
    return torch.full((LAYERS, 2, HEADS, length, WIDTH), value)


class Rows:
    """A cache, and what each of its rows should hold."""

    def __init__(self, rows: int, tokens: int) -> None:
        self.cache = SlotCache(LAYERS)
        self.cache.reserve(rows, tokens)
        self.expected: list[list[float]] = []

    def put(self, length: int, value: float) -> None:
        self.cache.put(len(self.expected), prefix(length, value) if length else None)
        self.expected.append([value] * length)

    def write(self, first: int, values: list[list[float]]) -> None:
        """Tokens behind each row from `first` on; shorter ones are padded."""
        longest = max(map(len, values))
        states = torch.zeros(len(values), HEADS, longest, WIDTH)
        places = torch.full((len(values), longest), self.cache.row_tokens)
        for number, own in enumerate(values):
            before = self.expected[first + number]
            for step, value in enumerate(own):
                states[number, :, step] = value
                places[number, step] = len(before) + step
            before += own
        ends = [len(self.expected[first + number]) for number in range(len(values))]
        self.cache.set_window(first, places, ends)
        for layer in self.cache.slots:
            layer.update(states, states)

    def leave(self, row: int) -> None:
        last = len(self.expected) - 1
        if row != last:
            self.cache.move(last, row)
            self.expected[row] = self.expected[last]
        self.expected.pop()

    def keep(self, rows: list[int]) -> None:
        self.cache.retain(rows)
        self.expected = [self.expected[row] for row in rows]

    def check(self) -> None:
        """Every row holds its own tokens, and nothing that is not a number behind them."""
        for layer in self.cache.slots:
            for row, values in enumerate(self.expected):
                for held in (layer.keys[row], layer.values[row]):
                    own = torch.tensor(values).view(1, -1, 1).expand(HEADS, -1, WIDTH)
                    assert torch.equal(held[:, : len(values)].nan_to_num(7), own.nan_to_num(7))
                    if not torch.tensor(values).isnan().any():
                        assert not held[:, len(values) : self.cache.row_tokens].isnan().any()


@pytest.mark.parametrize("seed", range(20))
def test_rows_keep_their_tokens_and_inherit_no_nan(seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)

    def below(end: int) -> int:
        return int(torch.randint(end, (1,), generator=draw))

    rows = Rows(4, 24)
    rows.put(3, 1.0)
    rows.write(0, [[2.0]])
    for number in range(60):
        value = float("nan") if below(4) == 0 else float(number)
        count = len(rows.expected)
        match below(5):
            case 0 if count < 4:
                rows.put(below(6), value)
                rows.write(count, [[value] * (1 + below(3))])
            case 1 if count:
                rows.leave(below(count))
            case 2 if count > 1:
                rows.keep(torch.randperm(count, generator=draw)[: count - 1].tolist())
            case 3 if count and max(map(len, rows.expected)) < 22:
                rows.write(0, [[value]] * count)
            case 4:
                longest = max(map(len, rows.expected), default=0)
                rows.cache.reserve(4 + below(3), max(longest + 2, 20 + below(8)))
        while rows.expected and max(map(len, rows.expected)) >= 20:
            rows.leave(max(range(len(rows.expected)), key=lambda own: len(rows.expected[own])))
        rows.check()


def test_a_row_after_one_that_overflowed_is_zero_behind_its_prefix() -> None:
    rows = Rows(2, 16)
    rows.put(2, 1.0)
    rows.write(0, [[float("nan")] * 9])
    rows.leave(0)
    rows.put(4, 5.0)
    for layer in rows.cache.slots:
        assert (layer.keys[0, :, 4:16] == 0).all()
        assert (layer.values[0, :, 4:16] == 0).all()


@pytest.mark.parametrize("row", [0, 1])
def test_nothing_of_a_spoiled_row_stays(row: int) -> None:
    rows = Rows(3, 16)
    rows.put(2, 1.0)
    rows.put(3, 2.0)
    rows.write(0, [[3.0], [4.0]])
    for layer in rows.cache.slots:
        layer.keys[row] = layer.values[row] = torch.nan
    rows.cache.invalidate(row)
    rows.leave(row)
    rows.check()
    rows.put(1, 5.0)
    rows.check()


def test_what_failed_on_the_way_is_cleared_by_the_next_row(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    rows = Rows(2, 16)
    rows.put(2, 1.0)
    rows.write(0, [[2.0]])
    rows.leave(0)
    broken = prefix(9, float("nan"))[:1]  # of one layer only
    with pytest.raises(IndexError):
        rows.cache.put(0, broken)
    rows.put(3, 4.0)
    for layer in rows.cache.slots:
        assert (layer.keys[0, :, 3:16] == 0).all()


def test_memory_given_back_starts_anew() -> None:
    rows = Rows(2, 16)
    rows.put(2, 1.0)
    rows.write(0, [[2.0] * 3])
    rows.cache.release()
    rows.expected.clear()
    rows.cache.reserve(3, 8)
    rows.put(2, 3.0)
    rows.check()
