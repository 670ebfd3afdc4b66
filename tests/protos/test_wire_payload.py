"""Payloads in parts: round trip, cost, and what a hostile client may try."""

from __future__ import annotations

import os
import tracemalloc
from contextlib import suppress
from typing import Any, get_args

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Coding, Payload
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.convert import PayloadAssembler, payload_to_parts

DIGEST = bytes(range(16))
STAGES = 3


def payload(body: bytes = b"", coding: Coding = "fixed", masked_stages: int = 0) -> Payload:
    return Payload(DIGEST, 577, STAGES, masked_stages, coding, body, crc32=0xFFFF_FFFF)


def header(**changes: Any) -> pb.PayloadHeader:
    fields = {"coding": pb.CODING_FIXED, "num_tokens": 577, "num_stages": 2, "body_bytes": 4}
    return pb.PayloadHeader(**{**fields, **changes})


@given(
    body=st.binary(max_size=200),
    coding=st.sampled_from(get_args(Coding)),
    num_tokens=st.integers(1, 65_535),
    num_stages=st.integers(0, 32),
    crc32=st.integers(0, 2**32 - 1),
    max_chunk_bytes=st.integers(1, 300),
    data=st.data(),
)
def test_round_trip(
    body: bytes,
    coding: Coding,
    num_tokens: int,
    num_stages: int,
    crc32: int,
    max_chunk_bytes: int,
    data: st.DataObject,
) -> None:
    masked_stages = data.draw(st.integers(0, (1 << num_stages) - 1))
    sent = Payload(DIGEST, num_tokens, num_stages, masked_stages, coding, body, crc32)
    assembler = PayloadAssembler(DIGEST, max_body_bytes=200)
    *early, last = (
        assembler.add(pb.PayloadPart.FromString(part.SerializeToString()))
        for part in payload_to_parts(sent, max_chunk_bytes)
    )
    assert last == sent
    assert early == [None] * len(early)
    assembler.finish()


def test_chunks_keep_to_their_limit_and_carry_one_header() -> None:
    parts = list(payload_to_parts(payload(bytes(100)), max_chunk_bytes=30))
    assert [len(part.chunk) for part in parts] == [30, 30, 30, 10]
    assert [part.HasField("header") for part in parts] == [True, False, False, False]
    with pytest.raises(ValueError, match="max_chunk_bytes"):
        list(payload_to_parts(payload(), max_chunk_bytes=0))


@pytest.mark.parametrize("coding", get_args(Coding))
def test_a_real_payload_costs_few_bytes_on_top(coding: Coding) -> None:
    body = os.urandom(866)
    (part,) = payload_to_parts(payload(body, coding, masked_stages=0b110))
    assert part.ByteSize() - len(body) < 25
    (unmasked,) = payload_to_parts(payload(body, coding))
    assert pb.AskRequest(payload=unmasked).ByteSize() - len(body) < 25


@pytest.mark.parametrize(
    ("parts", "words"),
    [
        ([pb.PayloadPart(chunk=b"ab")], "expected a header in the first payload part, got none"),
        ([pb.PayloadPart()], "expected bytes in a payload part"),
        ([pb.PayloadPart(header=header()), pb.PayloadPart()], "expected bytes in a payload part"),
        ([pb.PayloadPart(header=header(), chunk=b"a")] * 2, "got another"),
        ([pb.PayloadPart(header=header(), chunk=b"abcde")], "announced 4 bytes, got 5"),
        (
            [pb.PayloadPart(header=header(), chunk=b"abc"), pb.PayloadPart(chunk=b"de")],
            "announced 4 bytes, got 5",
        ),
        (
            [pb.PayloadPart(header=header(), chunk=b"abcd"), pb.PayloadPart(chunk=b"e")],
            "after a complete",
        ),
        ([pb.PayloadPart(header=header(body_bytes=0), chunk=b"a")], "announced 0 bytes"),
        ([pb.PayloadPart(header=header(body_bytes=101))], "at most 100 bytes, got one of 101"),
        ([pb.PayloadPart(header=header(body_bytes=2**32 - 1))], "at most 100 bytes"),
        ([pb.PayloadPart(header=header(coding=0))], "number 0"),
        ([pb.PayloadPart(header=header(coding=99))], "number 99"),
        ([pb.PayloadPart(header=header(num_tokens=0))], "a malformed one"),
        ([pb.PayloadPart(header=header(num_tokens=65_536))], "a malformed one"),
        ([pb.PayloadPart(header=header(num_stages=33))], "a malformed one"),
        ([pb.PayloadPart(header=header(num_stages=2**32 - 1))], "a malformed one"),
        ([pb.PayloadPart(header=header(masked_stages=4))], "a malformed one"),
    ],
)
def test_abuse_is_a_corrupt_payload(parts: list[pb.PayloadPart], words: str) -> None:
    assembler = PayloadAssembler(DIGEST, max_body_bytes=100)
    for part in parts[:-1]:
        assembler.add(part)
    with pytest.raises(CorruptPayload, match=words):
        assembler.add(parts[-1])
    with pytest.raises(CorruptPayload, match="after a complete or refused"):
        assembler.add(pb.PayloadPart(header=header(), chunk=b"abcd"))


def test_announced_bytes_are_not_reserved() -> None:
    assembler = PayloadAssembler(DIGEST, max_body_bytes=1 << 31)
    part = pb.PayloadPart(header=header(body_bytes=1 << 31), chunk=b"a")
    tracemalloc.start()
    try:
        assert assembler.add(part) is None
        assert tracemalloc.get_traced_memory()[1] < 100_000
    finally:
        tracemalloc.stop()


def test_a_stream_that_ends_early_is_corrupt() -> None:
    assembler = PayloadAssembler(DIGEST, max_body_bytes=100)
    with pytest.raises(CorruptPayload, match="expected a header"):
        assembler.finish()
    assembler.add(pb.PayloadPart(header=header(), chunk=b"abc"))
    with pytest.raises(CorruptPayload, match="expected 4 bytes, got the end of the stream after 3"):
        assembler.finish()


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_assembled(wire: bytes) -> None:
    with suppress(DecodeError, CorruptPayload):
        part = pb.PayloadPart.FromString(b"\x0a\x06\x08\x01\x10\x01\x28\x02" + wire)
        PayloadAssembler(DIGEST, max_body_bytes=100).add(part)
