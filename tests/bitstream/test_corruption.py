from __future__ import annotations

import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aligned_vq.bitstream import (
    CODECS,
    Layout,
    from_frame,
    max_body_bytes,
    pack,
    to_frame,
    unpack,
)
from aligned_vq.errors import ConfigError, CorruptPayload
from aligned_vq.types import CODINGS, Coding, Encoded, Payload, StageIndices

from .samples import (
    DIGEST,
    GROUPED,
    IDENTITY,
    PAPER,
    context_tables,
    grouped_encoded,
    raw_encoded,
    skewed_tables,
    with_body,
)

TABLES = context_tables(GROUPED)


def example(coding: Coding, statistics: bool = False) -> Payload:
    if coding == "raw":
        return pack(raw_encoded(3, statistics), IDENTITY, None, DIGEST)
    return pack(grouped_encoded(50, statistics), GROUPED, TABLES, DIGEST, coding)


def open_again(payload: Payload, statistics: bool = False) -> Encoded:
    if payload.coding == "raw":
        return unpack(payload, IDENTITY, 3, statistics)
    return unpack(payload, GROUPED, 50, statistics, TABLES)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("statistics", [False, True])
def test_every_truncation_and_bit_flip_is_refused(coding: Coding, statistics: bool) -> None:
    payload = example(coding, statistics)
    open_again(payload, statistics)
    for length in range(len(payload.body)):
        with pytest.raises(CorruptPayload):
            open_again(replace(payload, body=payload.body[:length]), statistics)
    for bit in range(8 * len(payload.body)):
        body = bytearray(payload.body)
        body[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptPayload):
            open_again(replace(payload, body=bytes(body)), statistics)
    for tail in (b"\0", b"\0" * 4, b"\xff" * 4, b"\0" * 4096):
        with pytest.raises(CorruptPayload):
            open_again(replace(payload, body=payload.body + tail), statistics)


def test_every_frame_truncation_and_flip_outside_the_digest_is_refused() -> None:
    frame = to_frame(example("range"))
    for length in range(len(frame)):
        with pytest.raises(CorruptPayload):
            from_frame(frame[:length])
    with pytest.raises(CorruptPayload, match="body"):
        from_frame(frame + b"\0")
    digest_at = frame.index(DIGEST)
    for bit in range(8 * len(frame)):
        if digest_at <= bit // 8 < digest_at + 16:
            continue
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CorruptPayload):
            open_again(from_frame(bytes(flipped)))


@pytest.mark.parametrize(
    ("at", "value", "words"),
    [
        (0, 0x41, "begins with 93 41 56 51"),
        (4, 2, "expected bitstream version 1, got version 2"),
        (5, 9, "coding"),
        (8, 33, "33 stages"),
        (36, 255, "bytes of body"),
    ],
)
def test_a_wrong_header_is_named(at: int, value: int, words: str) -> None:
    frame = bytearray(to_frame(example("fixed")))
    frame[at] = value
    with pytest.raises(CorruptPayload, match=words):
        from_frame(bytes(frame))


def test_an_index_beyond_its_codebook_is_refused() -> None:
    # 100 entries need 7 bits, which can say 127.
    bits = np.tile(np.array([1, 1, 0, 0, 1, 0, 0], np.uint8), 100)
    payload = replace(example("fixed"), num_stages=1, masked_stages=0)
    body = np.packbits(bits).tobytes()
    with pytest.raises(CorruptPayload, match=r"stage 0 below 100, got 100"):
        open_again(with_body(payload, body))


def test_padding_must_be_zero() -> None:
    payload = pack(Encoded(1, (StageIndices(np.array([[5]], np.int32)),)), PAPER, None, DIGEST)
    assert payload.body == bytes([0x00, 0x50])
    with pytest.raises(CorruptPayload, match="zero bits"):
        unpack(with_body(payload, bytes([0x00, 0x51])), PAPER, 1, False)


@pytest.mark.parametrize("size", [-1, 1])
@pytest.mark.parametrize("coding", CODINGS)
def test_a_wrong_length_is_refused_even_with_its_own_crc(coding: Coding, size: int) -> None:
    payload = example(coding)
    body = payload.body + b"\0" if size > 0 else payload.body[:-1]
    with pytest.raises(CorruptPayload, match=r"expected .*bytes"):
        open_again(with_body(payload, body))


def test_a_crc_of_other_indices_is_refused() -> None:
    for coding in CODINGS:
        payload = example(coding)
        with pytest.raises(CorruptPayload, match="crc32"):
            open_again(replace(payload, crc32=payload.crc32 ^ 1))


def test_a_payload_of_another_shape_is_refused() -> None:
    fixed, ranged, raw, context = (example(coding) for coding in CODINGS)
    for payload, words in (
        (replace(fixed, num_tokens=51), "expected 50 tokens, got 51"),
        (replace(fixed, num_stages=3), "expected 1 to 2 stages, got 3"),
        (replace(fixed, num_stages=0, masked_stages=0), "expected 1 to 2 stages, got 0"),
        (replace(raw, num_stages=1), "expected 0 to 0 stages, got 1"),
        (replace(fixed, body=bytes(10_000)), "expected at most"),
    ):
        with pytest.raises(CorruptPayload, match=words):
            open_again(payload)
    with pytest.raises(CorruptPayload, match="fixed or range or context for the aligned"):
        unpack(replace(fixed, coding="raw"), GROUPED, 50, False)
    for coding in ("fixed", "range", "context"):
        with pytest.raises(CorruptPayload, match="raw for the identity"):
            unpack(replace(raw, coding=coding), IDENTITY, 3, False)
    with pytest.raises(CorruptPayload, match="no entropy tables"):
        unpack(ranged, GROUPED, 50, False)
    for tables in (None, skewed_tables(GROUPED)):
        with pytest.raises(CorruptPayload, match="no context tables"):
            unpack(context, GROUPED, 50, False, tables)
    with pytest.raises(ConfigError, match="shapes"):
        unpack(ranged, GROUPED, 50, False, skewed_tables(PAPER))


def test_a_body_with_statistics_is_refused_without_and_the_other_way_round() -> None:
    for coding in CODINGS:
        for sent in (False, True):
            with pytest.raises(CorruptPayload):
                open_again(example(coding, sent), statistics=not sent)


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0])
@pytest.mark.parametrize("coding", CODINGS)
def test_impossible_numbers_are_refused(coding: Coding, value: float) -> None:
    payload = example(coding, statistics=True)
    body = bytearray(payload.body)
    if coding == "raw":
        body[-4:] = np.array(value, "<f4").tobytes()
    else:
        body[2:4] = np.array(value, "<f2").tobytes()
    with pytest.raises(CorruptPayload, match=r"standard deviations above|finite"):
        open_again(with_body(payload, bytes(body)), statistics=True)
    if coding == "raw" and not np.isfinite(value):
        body = bytearray(payload.body)
        body[:4] = np.array(value, "<f4").tobytes()
        with pytest.raises(CorruptPayload, match="finite features"):
            open_again(with_body(payload, bytes(body)), statistics=True)


@settings(max_examples=300, deadline=None)
@given(
    st.binary(max_size=140),
    st.sampled_from(CODINGS),
    st.integers(0, 3),
    st.integers(0, 7),
    st.booleans(),
)
def test_random_bodies_decode_or_are_corrupt(
    body: bytes, coding: Coding, num_stages: int, masked_stages: int, statistics: bool
) -> None:
    masked_stages &= (1 << num_stages) - 1
    payload = Payload(DIGEST, 10, num_stages, masked_stages, coding, body, zlib.crc32(body))
    for config in (GROUPED, IDENTITY):
        tables = TABLES if config is GROUPED else None
        try:
            encoded = unpack(payload, config, 10, statistics, tables)
        except CorruptPayload:
            continue
        assert pack(encoded, config, tables, DIGEST, coding).body == body
        assert len(body) <= max_body_bytes(config, 10, statistics)


@pytest.mark.parametrize("coding", ["range", "context"])
def test_random_words_never_break_the_range_decoder(coding: Coding) -> None:
    codec = CODECS[coding]
    rng = np.random.default_rng(0)
    for _ in range(1500):
        body = rng.bytes(4 * int(rng.integers(0, 12)))
        if rng.random() < 0.3:
            body = b"\xff" * min(8, len(body)) + body[8:]
        layout = Layout(GROUPED, 20, 2, int(rng.integers(0, 4)), statistics=False)
        try:
            encoded = codec.decode(body, layout, TABLES)
        except CorruptPayload:
            continue
        assert codec.encode(encoded, GROUPED, TABLES) == body


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=80), st.booleans())
def test_random_frames_are_corrupt_or_payloads(data: bytes, keep_magic: bool) -> None:
    frame = to_frame(example("fixed"))[:5] + data if keep_magic else data
    try:
        payload = from_frame(frame)
    except CorruptPayload:
        return
    assert to_frame(payload) == frame
