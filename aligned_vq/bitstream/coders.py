"""Selection of the range coder: constriction if it is installed, else the module `range_coder`.

Both write the same bytes and read the same symbols; constriction is compiled and faster.
"""

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
    """A range coder implementation, as constructors with the interface of `range_coder`.

    Encoders have `encode(symbols, model)` and `get_compressed()`, decoders `decode(model[, n])`.
    Models of one implementation cannot be used with another.
    """

    name: str
    encoder: Callable[[], Any]
    """Creates an encoder."""
    decoder: Callable[[Any], Any]
    """Creates a decoder of uint32 words."""
    categorical: Callable[[Any], Any]
    """Creates a model from float64 weights `[S]`."""
    uniform: Callable[[int], Any]
    """Creates a model of S equally likely symbols."""
    bernoulli: Callable[[float], Any]
    """Creates a model of one bit from the probability of 1."""
    invalid_words: type[Exception]
    """Raised by decoders for words that no encoder writes."""


PURE = Coder(
    "range_coder",
    range_coder.RangeEncoder,
    range_coder.RangeDecoder,
    range_coder.categorical,
    range_coder.uniform,
    range_coder.bernoulli,
    range_coder.InvalidWords,
)


def compiled() -> Coder | None:
    """constriction's coder, or None if it is not installed; it has no wheel for Linux aarch64."""
    try:
        import constriction
    except ImportError:
        return None
    queue, model = constriction.stream.queue, constriction.stream.model
    return Coder(
        "constriction",
        queue.RangeEncoder,
        queue.RangeDecoder,
        # `perfect=False` is the fast quantization of probabilities, which `range_coder` repeats.
        lambda weights: model.Categorical(weights, perfect=False),
        model.Uniform,
        lambda probability: model.Bernoulli(probability, perfect=False),
        AssertionError,
    )


CODER = compiled() or PURE
"""Selected once, on import, because tables cache models of one implementation."""


def to_bytes(encoder: Any) -> bytes:
    """The words that an encoder wrote, as uint32 little-endian."""
    words: bytes = encoder.get_compressed().astype("<u4").tobytes()
    return words


@contextmanager
def reading(coded: bytes) -> Iterator[Any]:
    """A context with a decoder of bytes from `to_bytes`.

    Raises:
        CorruptPayload: the bytes are not whole words, or no encoder writes these words.
    """
    # Checked first: `frombuffer` would raise a ValueError that does not name the payload.
    if len(coded) % _WORD_BYTES:
        raise CorruptPayload(
            f"expected a multiple of {_WORD_BYTES} bytes from the range coder, got {len(coded)}; "
            f"{RESEND}"
        )
    try:
        yield CODER.decoder(np.frombuffer(coded, "<u4").astype(np.uint32))
    except CODER.invalid_words as error:
        raise CorruptPayload(
            f"expected range-coded indices, got words that no encoder writes; {RESEND}"
        ) from error
