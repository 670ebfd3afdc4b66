"""The range coder in use: constriction's, compiled, where it is installed, else the one of
`range_coder`. Both make the same bytes and read the same symbols."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from aligned_vq.bitstream import range_coder
from aligned_vq.bitstream.layout import RESEND
from aligned_vq.errors import CorruptPayload

_WORD_BYTES = 4


@dataclass(frozen=True)
class Coder:
    """One implementation.

    Encoders have `encode(symbols, model)` and `get_compressed()`, decoders `decode(model[, n])`, as
    in `range_coder`; models are one implementation's own.
    """

    name: str
    encoder: Callable[[], Any]
    """A new one."""
    decoder: Callable[[Any], Any]
    """One of uint32 words."""
    categorical: Callable[[Any], Any]
    """The model of float64 weights `[S]`."""
    uniform: Callable[[int], Any]
    """The model of so many symbols."""
    bernoulli: Callable[[float], Any]
    """The model of a bit that is set with this probability."""
    no_such_symbols: type[Exception]
    """Raised by decoders for words that no symbols lead to."""


PURE = Coder(
    "range_coder",
    range_coder.RangeEncoder,
    range_coder.RangeDecoder,
    range_coder.categorical,
    range_coder.uniform,
    range_coder.bernoulli,
    range_coder.NoSuchSymbols,
)


def compiled() -> Coder | None:
    """constriction's, if it is installed; it has no build for Linux on aarch64."""
    try:
        import constriction
    except ImportError:
        return None
    queue, model = constriction.stream.queue, constriction.stream.model
    return Coder(
        "constriction",
        queue.RangeEncoder,
        queue.RangeDecoder,
        lambda weights: model.Categorical(weights, perfect=False),
        model.Uniform,
        lambda probability: model.Bernoulli(probability, perfect=False),
        AssertionError,
    )


CODER = compiled() or PURE
"""In use from the import on: models are kept, and fit one implementation only."""


def to_bytes(encoder: Any) -> bytes:
    """An encoder's words, uint32 little-endian."""
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return words


@contextmanager
def reading(coded: bytes) -> Iterator[Any]:
    """A decoder of what `to_bytes` gave.

    Raises:
        CorruptPayload: these are not whole words, or no symbols lead to them.
    """
    if len(coded) % _WORD_BYTES:
        raise CorruptPayload(
            f"expected a multiple of {_WORD_BYTES} bytes from the range coder, got {len(coded)}; "
            f"{RESEND}"
        )
    try:
        yield CODER.decoder(np.frombuffer(coded, "<u4").astype(np.uint32))
    except CODER.no_such_symbols as error:
        raise CorruptPayload(
            f"expected range-coded indices, got words that no symbols lead to; {RESEND}"
        ) from error
