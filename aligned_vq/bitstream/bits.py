"""Conversion between fixed-width integers and bit strings, most significant bit first.

A bit string is a uint8 array of zeros and ones. Bit strings are concatenated before
`bits_to_bytes`, so that consecutive fields share bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from aligned_vq.types import Indices

Bits = NDArray[np.uint8]

# Values pass through uint16.
MAX_WIDTH_BITS = 16


def pack_fields(values: NDArray[np.integer], width_bits: int) -> Bits:
    """Bits `[n * width_bits]` of n values, each `0 <= value < 2**width_bits`.

    Raises:
        ValueError: the width is not 1 to 16, or a value does not fit in it.
    """
    _check_width(width_bits)
    flat = values.reshape(-1)
    if flat.size and not 0 <= int(flat.min()) <= int(flat.max()) < 1 << width_bits:
        raise ValueError(
            f"expected values of {width_bits} bits, 0 to {(1 << width_bits) - 1}, "
            f"got {int(flat.min())} to {int(flat.max())}"
        )
    # Big-endian: `unpackbits` starts with the most significant bit of the first byte.
    octets = flat.astype(">u2").view(np.uint8).reshape(-1, 2)
    # [n, 16] to [n, width]: the leading zeros are dropped.
    return np.unpackbits(octets, axis=1)[:, MAX_WIDTH_BITS - width_bits :].reshape(-1)


def unpack_fields(bits: Bits, width_bits: int) -> Indices:
    """The int32 values `[n]` of a bit string `[n * width_bits]`.

    Raises:
        ValueError: the width is not 1 to 16, or does not divide the number of bits.
    """
    _check_width(width_bits)
    if bits.size % width_bits:
        raise ValueError(
            f"expected a whole number of {width_bits}-bit values, got {bits.size} bits"
        )
    padded = np.zeros((bits.size // width_bits, MAX_WIDTH_BITS), np.uint8)
    padded[:, MAX_WIDTH_BITS - width_bits :] = bits.reshape(-1, width_bits)
    return np.packbits(padded, axis=1).view(">u2").reshape(-1).astype(np.int32)


def bits_to_bytes(bits: Bits) -> bytes:
    """The bytes of a bit string, zero-padded to a multiple of 8 bits."""
    return np.packbits(bits).tobytes()


def bytes_to_bits(data: bytes) -> Bits:
    """The bit string `[8 * len(data)]` of bytes, padding bits included."""
    return np.unpackbits(np.frombuffer(data, np.uint8))


def _check_width(width_bits: int) -> None:
    if not 1 <= width_bits <= MAX_WIDTH_BITS:
        raise ValueError(f"expected a width of 1 to {MAX_WIDTH_BITS} bits, got {width_bits}")
