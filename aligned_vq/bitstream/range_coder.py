"""A range coder: symbols in, words out, and the same symbols back in the same order.

Integers only, so every machine codes the same bytes: a state of 64 bits, words of 32, probabilities
of 24 (Martin, "Range encoding: an algorithm for removing redundancy from a digitised message",
1979). Words and models are those of constriction's range coder, which takes the place of this one
where it is installed (`coders`); one payload reads the same on both sides of a link.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 24
_WHOLE = 1 << PRECISION_BITS
_WORD_BITS = 32
_WORD = (1 << _WORD_BITS) - 1
_STATE = (1 << 2 * _WORD_BITS) - 1


class NoSuchSymbols(ValueError):
    """No symbols lead to these words."""


class Model:
    """Probabilities of the symbols 0 to S - 1.

    Args:
        starts: S + 1 strictly ascending integers, 0 to 2**24: symbol s has the interval from
            `starts[s]` up to `starts[s + 1]`.
    """

    __slots__ = ("starts",)

    def __init__(self, starts: Sequence[int]) -> None:
        self.starts = starts


def categorical(weights: NDArray[np.float64]) -> Model:
    """A model of symbols in proportion to their weights `[S]`, integers or not, S at least 2.

    Each symbol has one of the 2**24 parts for itself, however small its weight. The rest is dealt
    out with one division and S products in float64, which IEEE 754 rounds alike on any machine.
    """
    ends = np.cumsum(weights, dtype=np.float64)
    scale = (_WHOLE - len(weights)) / float(ends[-1])
    shares = (ends[:-1] * scale).astype(np.int64)
    return Model([0, *(shares + np.arange(1, len(weights))).tolist(), _WHOLE])


def uniform(size: int) -> Model:
    """A model of `size` symbols, two at least, as likely as one another; the last has what the
    division leaves over."""
    each = _WHOLE // size
    return Model([*range(0, each * size, each), _WHOLE])


def bernoulli(probability: float) -> Model:
    """A model of 0 and of 1, which has this probability."""
    return categorical(np.array([1.0 - probability, probability]))


class RangeEncoder:
    """Takes symbols, in the order in which they are to be decoded."""

    def __init__(self) -> None:
        self._words: list[int] = []
        self._low = 0
        self._range = _STATE

    def encode(self, symbols: int | NDArray[np.integer], model: Model) -> None:
        """Add one symbol, or several under one model."""
        starts = model.starts
        if isinstance(symbols, int):
            self._add(starts[symbols], starts[symbols + 1])
            return
        for symbol in symbols.tolist():
            self._add(starts[symbol], starts[symbol + 1])

    def _add(self, start: int, end: int) -> None:
        part = self._range >> PRECISION_BITS
        self._low += part * start
        self._range = width = part * (end - start)
        if self._low > _STATE:
            self._low &= _STATE
            _carry(self._words)
        if width <= _WORD:
            self._words.append(self._low >> _WORD_BITS)
            self._low = (self._low & _WORD) << _WORD_BITS
            self._range = width << _WORD_BITS

    def get_compressed(self) -> NDArray[np.uint32]:
        """The words so far; more symbols may follow."""
        if self._range == _STATE:  # nothing was encoded
            return np.empty(0, np.uint32)
        # The shortest words in the interval, whatever a decoder reads behind them. A trailing zero
        # holds the place of one that would otherwise be read from behind the message.
        words, point = self._words.copy(), self._low + _WORD
        if point > _STATE:
            _carry(words)
        last = point >> _WORD_BITS & _WORD
        words.append(last)
        if (self._low + self._range) >> _WORD_BITS & _WORD == last:
            words.append(0)
        return np.array(words, np.uint32)


def _carry(words: list[int]) -> None:
    """Add one to the number that the words are."""
    place = len(words) - 1
    while words[place] == _WORD:
        words[place] = 0
        place -= 1
    words[place] += 1


class RangeDecoder:
    """Reads symbols back.

    Args:
        words: uint32, as an encoder gave them; behind them only zeros are read.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = iter(words.tolist())
        # How far the words lie above the interval's low end: all that decoding needs of either.
        self._point = next(self._words, 0) << _WORD_BITS | next(self._words, 0)
        self._range = _STATE

    @overload
    def decode(self, model: Model) -> int: ...

    @overload
    def decode(self, model: Model, amount: int) -> NDArray[np.int32]: ...

    def decode(self, model: Model, amount: int | None = None) -> int | NDArray[np.int32]:
        """The next symbol, or so many under one model.

        Raises:
            NoSuchSymbols: no symbols lead to these words.
        """
        if amount is None:
            return self._next(model.starts)
        return np.fromiter((self._next(model.starts) for _ in range(amount)), np.int32, amount)

    def _next(self, starts: Sequence[int]) -> int:
        part = self._range >> PRECISION_BITS
        quantile = self._point // part
        if quantile >= _WHOLE:
            raise NoSuchSymbols("words that no symbols lead to")
        symbol = bisect_right(starts, quantile) - 1
        start = starts[symbol]
        self._point -= part * start
        self._range = part * (starts[symbol + 1] - start)
        if self._range <= _WORD:
            self._point = self._point << _WORD_BITS | next(self._words, 0)
            self._range <<= _WORD_BITS
        return symbol
