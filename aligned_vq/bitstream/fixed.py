"""Fixed coding: one bit string in which each index has the width that its codebook needs.

    [statistics, N x 2 float16 little-endian]
    per stage: [mask, N bits, if masked] [n x G indices, token by token]
    zero bits up to a whole byte

This is also the canonical form: a payload's crc32 covers it, whichever coding the body uses.
"""

from __future__ import annotations

import numpy as np

from aligned_vq.bitstream.bits import (
    Bits,
    bits_to_bytes,
    bytes_to_bits,
    pack_fields,
    unpack_fields,
)
from aligned_vq.bitstream.layout import RESEND, Layout
from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Encoded, Mask, QuantizerConfig, StageIndices


def encode_fixed(encoded: Encoded, config: QuantizerConfig) -> bytes:
    """The fixed-coding body of an `Encoded` with stages that fit the config."""
    bits: list[Bits] = []
    for number, stage in enumerate(encoded.stages):
        if stage.mask is not None:
            bits.append(stage.mask.astype(np.uint8))
        bits.append(pack_fields(stage.indices, config.bits_per_index(number)))
    prefix = b"" if encoded.statistics is None else encoded.statistics.astype("<f2").tobytes()
    # Concatenated before packing: stages need not start at whole bytes.
    return prefix + bits_to_bytes(np.concatenate(bits))


def decode_fixed(body: bytes, layout: Layout) -> Encoded:
    """The `Encoded` of a fixed-coding body no longer than `max_body_bytes`.

    Raises:
        CorruptPayload: wrong length, an index outside its codebook, or padding that is not zero.
    """
    statistics, packed = layout.split_body(body)
    reader = _BitReader(packed)
    stages = []
    for number in range(layout.num_stages):
        mask: Mask | None = None
        covered = layout.num_tokens
        if layout.has_mask(number):
            mask = reader.take(layout.num_tokens).astype(np.bool_)
            covered = int(mask.sum())
        width = layout.config.bits_per_index(number)
        fields = reader.take(covered * layout.config.num_groups * width)
        indices = unpack_fields(fields, width).reshape(covered, layout.config.num_groups)
        size = layout.config.codebook_sizes[number]
        # The width allows larger values unless the size is a power of two.
        if indices.size and int(indices.max()) >= size:
            raise CorruptPayload(
                f"expected indices of stage {number} below {size}, got {int(indices.max())}; "
                f"{RESEND}"
            )
        stages.append(StageIndices(indices, mask))
    reader.finish()
    return Encoded(layout.num_tokens, tuple(stages), statistics)


class _BitReader:
    """Reads consecutive bits; `finish` raises CorruptPayload if more than padding remains."""

    def __init__(self, data: bytes) -> None:
        self._bits = bytes_to_bits(data)
        self._position = 0

    def take(self, count: int) -> Bits:
        end = self._position + count
        if end > self._bits.size:
            raise CorruptPayload(
                f"expected at least {-(-end // 8)} bytes of indices, got {self._bits.size // 8}; "
                f"{RESEND}"
            )
        bits = self._bits[self._position : end]
        self._position = end
        return bits

    def finish(self) -> None:
        rest = self._bits[self._position :]
        # A whole byte cannot be padding.
        if rest.size >= 8:
            raise CorruptPayload(
                f"expected {-(-self._position // 8)} bytes of indices, got {self._bits.size // 8}; "
                f"{RESEND}"
            )
        # A body has one valid form, so that equal indices have equal bytes.
        if rest.any():
            raise CorruptPayload(f"expected zero bits after the last index, got ones; {RESEND}")
