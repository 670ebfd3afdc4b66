"""A range coder in pure Python: encodes symbols as 32-bit words, decoded in the same order.

It uses integers only, so all machines write the same bytes: 64 bits of state, 32-bit words, 24-bit
probabilities (Martin, "Range encoding: an algorithm for removing redundancy from a digitised
message", 1979). Words and models equal those of constriction's range coder, so a payload written
with one can be read with the other; `coders` selects the implementation.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import overload

import numpy as np
from numpy.typing import NDArray

PRECISION_BITS = 24
_TOTAL = 1 << PRECISION_BITS
_WORD_BITS = 32
_MAX_WORD = (1 << _WORD_BITS) - 1
_MAX_STATE = (1 << 2 * _WORD_BITS) - 1


class InvalidWords(ValueError):
    """The words are not the output of an encoder."""


class Model:
    """Probabilities of the symbols 0 to S - 1, as integers over 2**24.

    Args:
        starts: S + 1 strictly ascending integers from 0 to 2**24; symbol s has the interval from
            `starts[s]` to `starts[s + 1]`, exclusive.
    """

    __slots__ = ("starts",)

    def __init__(self, starts: Sequence[int]) -> None:
        self.starts = starts


def categorical(weights: NDArray[np.float64]) -> Model:
    """A model with probabilities proportional to weights `[S]`, S at least 2.

    Every symbol gets at least 1 / 2**24, however small its weight.
    """
    # One division and S products in float64, which IEEE 754 rounds alike on any machine. The
    # formula must stay constriction's: any other rounding changes the bytes.
    ends = np.cumsum(weights, dtype=np.float64)
    scale = (_TOTAL - len(weights)) / float(ends[-1])
    shares = (ends[:-1] * scale).astype(np.int64)
    # S units are set apart, and adding s to the s-th start gives one of them to each symbol.
    return Model([0, *(shares + np.arange(1, len(weights))).tolist(), _TOTAL])


def uniform(size: int) -> Model:
    """A model of `size` equally likely symbols, at least 2; the last one gets the remainder."""
    width = _TOTAL // size
    return Model([*range(0, width * size, width), _TOTAL])


def bernoulli(probability: float) -> Model:
    """A model of one bit that is 1 with this probability."""
    return categorical(np.array([1.0 - probability, probability]))


class RangeEncoder:
    """Encodes symbols in the order in which they will be decoded.

    The state is the interval from `_low` to `_low + _range`; its leading digits are the words.
    """

    def __init__(self) -> None:
        self._words: list[int] = []
        self._low = 0
        self._range = _MAX_STATE

    def encode(self, symbols: int | NDArray[np.integer], model: Model) -> None:
        """Append one symbol, or several under the same model."""
        starts = model.starts
        if isinstance(symbols, int):
            self._add(starts[symbols], starts[symbols + 1])
            return
        for symbol in symbols.tolist():
            self._add(starts[symbol], starts[symbol + 1])

    def _add(self, start: int, end: int) -> None:
        # The interval is divided into 2**24 equal units; the remainder is not used.
        unit = self._range >> PRECISION_BITS
        self._low += unit * start
        self._range = width = unit * (end - start)
        # A carry out of the 64 bits belongs to the words that are already written.
        if self._low > _MAX_STATE:
            self._low &= _MAX_STATE
            _carry(self._words)
        # At most 32 bits remain: one word moves out, so that `unit` never becomes 0.
        if width <= _MAX_WORD:
            self._words.append(self._low >> _WORD_BITS)
            self._low = (self._low & _MAX_WORD) << _WORD_BITS
            self._range = width << _WORD_BITS

    def get_compressed(self) -> NDArray[np.uint32]:
        """The words, uint32, of all symbols so far; encoding may continue."""
        if self._range == _MAX_STATE:  # nothing was encoded
            return np.empty(0, np.uint32)
        # One more word is enough if every continuation of it lies in the interval. Otherwise a
        # second word, zero, fixes what a decoder reads after it.
        words, point = self._words.copy(), self._low + _MAX_WORD
        if point > _MAX_STATE:
            _carry(words)
        last = point >> _WORD_BITS & _MAX_WORD
        words.append(last)
        if (self._low + self._range) >> _WORD_BITS & _MAX_WORD == last:
            words.append(0)
        return np.array(words, np.uint32)


def _carry(words: list[int]) -> None:
    """Add one to the number whose digits are the words, most significant first."""
    index = len(words) - 1
    # The number stays below one, so a word below the maximum exists.
    while words[index] == _MAX_WORD:
        words[index] = 0
        index -= 1
    words[index] += 1


class RangeDecoder:
    """Decodes symbols.

    Args:
        words: uint32, from an encoder; zeros are read after the last one.
    """

    def __init__(self, words: NDArray[np.uint32]) -> None:
        self._words = iter(words.tolist())
        # The number that the words are, minus the interval's low end: decoding needs neither alone.
        self._point = next(self._words, 0) << _WORD_BITS | next(self._words, 0)
        self._range = _MAX_STATE

    @overload
    def decode(self, model: Model) -> int: ...

    @overload
    def decode(self, model: Model, amount: int) -> NDArray[np.int32]: ...

    def decode(self, model: Model, amount: int | None = None) -> int | NDArray[np.int32]:
        """The next symbol, or int32 `[amount]` of the next ones under the same model.

        Raises:
            InvalidWords: no encoder writes these words.
        """
        if amount is None:
            return self._next(model.starts)
        return np.fromiter((self._next(model.starts) for _ in range(amount)), np.int32, amount)

    def _next(self, starts: Sequence[int]) -> int:
        unit = self._range >> PRECISION_BITS
        quantile = self._point // unit
        if quantile >= _TOTAL:  # the remainder of `range / 2**24`, which no symbol uses
            raise InvalidWords("expected words from an encoder, got words that no encoder writes")
        # The last start that is not above the quantile.
        symbol = bisect_right(starts, quantile) - 1
        start = starts[symbol]
        self._point -= unit * start
        self._range = unit * (starts[symbol + 1] - start)
        if self._range <= _MAX_WORD:
            self._point = self._point << _WORD_BITS | next(self._words, 0)
            self._range <<= _WORD_BITS
        return symbol
