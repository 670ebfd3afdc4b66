from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aligned_vq.bitstream.bits import bits_to_bytes, bytes_to_bits, pack_fields, unpack_fields


@given(st.integers(1, 16), st.data())
def test_fields_round_trip(width_bits: int, data: st.DataObject) -> None:
    values = data.draw(st.lists(st.integers(0, (1 << width_bits) - 1), max_size=50))
    bits = pack_fields(np.array(values, np.int32), width_bits)
    assert bits.size == len(values) * width_bits
    unpacked = unpack_fields(bits, width_bits)
    assert unpacked.dtype == np.int32
    assert unpacked.tolist() == values


def test_most_significant_bit_first_across_widths() -> None:
    bits = np.concatenate(
        [pack_fields(np.array([5]), 3), pack_fields(np.array([1, 0x7FF]), 11)],
    )
    assert "".join(map(str, bits)) == "101" + "00000000001" + "11111111111"
    assert bits_to_bytes(bits) == bytes([0b10100000, 0b00000111, 0b11111111, 0b10000000])
    assert bytes_to_bits(bits_to_bytes(bits))[: bits.size].tolist() == bits.tolist()


@pytest.mark.parametrize(("value", "width_bits"), [(8, 3), (-1, 3), (1, 0), (1, 17)])
def test_what_does_not_fit_is_refused(value: int, width_bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        pack_fields(np.array([value]), width_bits)


def test_a_partial_field_is_refused() -> None:
    with pytest.raises(ValueError, match="whole number"):
        unpack_fields(np.zeros(7, np.uint8), 3)
