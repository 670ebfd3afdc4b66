"""Payloads and streams that break the rules: one clear error each, and the service goes on."""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest

from aligned_vq.bitstream.bits import bits_to_bytes, pack_fields
from aligned_vq.calibration.codec import CodecPlan, CutFeatures, calibrate_codec, export_bundle
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.types import Coding, Payload, SplitPoint
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient, ManifestMismatch
from edge_client.encoder import EdgeEncoder
from protos.alignedvq.v1 import inference_pb2 as pb
from tests.conftest import NUM_TOKENS
from tests.e2e.raw import (
    GOOD_QUESTION,
    RawClient,
    Refusal,
    assert_clear,
    assert_serves,
    opening,
    parts,
    payload_of,
    picture,
)

ODD_SIZE = 48  # entries of a codebook that six bits can point beyond
PAYLOAD_SECONDS = 1.0
IN_FLIGHT = 2

Requests = Sequence[pb.AskRequest | bytes]


@pytest.fixture(autouse=True)
def _still_serves(request: pytest.FixtureRequest, cloud: CloudProcess) -> Iterator[None]:
    """After every test the same service answers a good question."""
    bundle: Path = request.getfixturevalue("bundle_directory")
    yield
    assert_serves(cloud.target, bundle)


@pytest.fixture(scope="module")
def odd_bundle(
    llava_directory: Path, examples: CutFeatures, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A bundle whose codebook size is no power of two."""
    checkpoint = LlavaCheckpoint(llava_directory)
    plan = CodecPlan(SplitPoint(1, "ln1"), codebook_sizes=(ODD_SIZE,), codebook_dim=16)
    folder = tmp_path_factory.mktemp("odd-bundle")
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, examples), folder)
    return folder


@pytest.fixture(scope="module")
def strict(llava_directory: Path, odd_bundle: Path) -> Iterator[CloudProcess]:
    """A service of that bundle with little patience and little room."""
    options = (f"--payload_seconds={PAYLOAD_SECONDS}", f"--max_in_flight={IN_FLIGHT}")
    with CloudProcess(odd_bundle, llava_directory, *options) as process:
        yield process


def assert_refused(raw: RawClient, requests: Requests, name: str, *named: str) -> None:
    with pytest.raises(Refusal) as caught:
        raw.ask(requests)
    refusal = caught.value
    assert refusal.name == name, refusal
    assert_clear(refusal.words)
    assert all(words in refusal.words for words in named), refusal.words


def flipped(body: bytes, bit: int) -> bytes:
    changed = bytearray(body)
    changed[bit // 8] ^= 1 << bit % 8
    return bytes(changed)


def test_a_stream_opens_with_a_question(raw: RawClient, payload: Payload) -> None:
    sent = list(parts(payload))
    assert_refused(raw, sent, "CorruptPayload", "got a payload part", "open with one")
    assert_refused(raw, [], "CorruptPayload", "got the end of the stream")
    assert_refused(raw, [pb.AskRequest()], "CorruptPayload", "got an empty or unknown message")
    assert_refused(raw, [b"\xff\xff\xff"], "CorruptPayload", "bytes that are not one")


def test_another_manifest_is_named(raw: RawClient, payload: Payload) -> None:
    own = payload.manifest_digest
    other = [opening(bytes(16)), *parts(payload)]
    assert_refused(raw, other, "ManifestMismatch", own.hex(), bytes(16).hex(), "install")
    for wrong in (b"", own[:15], own + b"\0"):
        assert_refused(raw, [opening(wrong)], "ManifestMismatch", "16 bytes", f"got {len(wrong)}")


def test_a_client_with_another_bundle_is_told(
    cloud: CloudProcess, identity_bundle_directory: Path
) -> None:
    with EdgeClient(cloud.target, identity_bundle_directory) as client:
        for ask in (lambda: client.ask(picture(), GOOD_QUESTION), client.check):
            with pytest.raises(ManifestMismatch, match=client.encoder.digest.hex()) as caught:
                ask()
            assert_clear(str(caught.value))


def test_a_truncated_payload(raw: RawClient, payload: Payload) -> None:
    first = opening(payload.manifest_digest)
    for requests in (
        [first],
        [first, *parts(replace(payload, body=payload.body[:7]), body_bytes=len(payload.body))],
        [first, *parts(replace(payload, body=b""), body_bytes=len(payload.body))],
    ):
        assert_refused(raw, requests, "CorruptPayload", "the end of the stream after", "send")


@pytest.mark.parametrize("coding", ["fixed", "range"])
def test_every_flipped_bit_is_noticed(
    raw: RawClient, bundle_directory: Path, coding: Coding
) -> None:
    sent = EdgeEncoder(bundle_directory).encode(picture(), coding=coding).payload
    bits = np.random.default_rng(1).choice(8 * len(sent.body), 40, replace=False)
    for bit in map(int, bits):
        damaged = replace(sent, body=flipped(sent.body, bit))
        assert_refused(raw, [opening(sent.manifest_digest), *parts(damaged)], "CorruptPayload")
    wrong_sum = parts(sent, crc32=sent.crc32 ^ 1)
    assert_refused(raw, [opening(sent.manifest_digest), *wrong_sum], "CorruptPayload", "crc32")


@pytest.mark.parametrize(
    ("header", "named"),
    [
        ({"num_tokens": NUM_TOKENS - 1}, [f"expected {NUM_TOKENS} tokens", "got 16"]),
        ({"num_tokens": NUM_TOKENS + 1}, [f"expected {NUM_TOKENS} tokens", "got 18"]),
        ({"num_tokens": 0}, ["0 tokens"]),
        ({"num_tokens": 2**32 - 1}, ["4294967295 tokens"]),
        ({"num_stages": 0, "masked_stages": 0}, ["expected 1 to 2 stages", "got 0"]),
        ({"num_stages": 0}, ["masked_stages of 0 bits", "got 0x2"]),
        ({"num_stages": 3}, ["expected 1 to 2 stages", "got 3"]),
        ({"num_stages": 2**32 - 1}, ["4294967295 stages"]),
        ({"masked_stages": 0}, ["bytes of indices"]),
        ({"masked_stages": 4}, ["masked_stages of 2 bits", "got 0x4"]),
        ({"coding": 0}, ["got number 0", "fixed, range, raw"]),
        ({"coding": 9}, ["got number 9", "update the service"]),
        ({"coding": pb.CODING_RAW}, ["got 'raw'", "fixed or range"]),
        ({"body_bytes": 2**32 - 1}, ["at most", "got one of 4294967295"]),
        ({"body_bytes": 100_000}, ["at most", "got one of 100000"]),
        ({"body_bytes": 3}, ["announced 3 bytes"]),
        ({"body_bytes": 0}, ["announced 0 bytes"]),
    ],
    ids=str,
)
def test_a_header_that_lies(
    raw: RawClient, payload: Payload, header: dict[str, Any], named: list[str]
) -> None:
    requests = [opening(payload.manifest_digest), *parts(payload, **header)]
    assert_refused(raw, requests, "CorruptPayload", *named)


def test_a_body_of_the_wrong_length(raw: RawClient, payload: Payload) -> None:
    for body in (payload.body[:-1], payload.body + b"\0", b""):
        requests = [opening(payload.manifest_digest), *parts(replace(payload, body=body))]
        assert_refused(raw, requests, "CorruptPayload", "bytes of indices")


def test_more_comes_than_was_announced(raw: RawClient, payload: Payload) -> None:
    first, size = opening(payload.manifest_digest), len(payload.body)
    head = list(parts(replace(payload, body=payload.body[:-1]), body_bytes=size))
    more = pb.AskRequest(payload=pb.PayloadPart(chunk=b"12"))
    assert_refused(raw, [first, *head, more], "CorruptPayload", f"announced {size} bytes")
    empty = pb.AskRequest(payload=pb.PayloadPart())
    assert_refused(raw, [first, *head, empty], "CorruptPayload", "got an empty one")
    assert_refused(raw, [first, *head, *head], "CorruptPayload", "got another")
    assert_refused(raw, [first, more], "CorruptPayload", "first payload part, got none")


def test_one_question_per_stream(raw: RawClient, payload: Payload) -> None:
    first = opening(payload.manifest_digest)
    assert_refused(raw, [first, first], "CorruptPayload", "got a question", "one question per")


def test_a_message_over_the_limit(raw: RawClient, payload: Payload, cloud: CloudProcess) -> None:
    first = opening(payload.manifest_digest)
    large = pb.AskRequest(payload=pb.PayloadPart(chunk=bytes(65_537)))
    for requests in ([large], [first, large]):
        with pytest.raises(Refusal) as caught:
            raw.ask(requests)
        assert caught.value.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert "larger than max" in caught.value.words
    assert cloud.process.poll() is None


def test_nothing_a_client_sent_looks_like_a_bug(
    cloud: CloudProcess, raw: RawClient, payload: Payload
) -> None:
    first, large = opening(payload.manifest_digest), bytes(65_537)
    streams: list[Requests] = [[b"\xff\xff\xff"], [first, large], [large]]
    for requests in streams * 20:
        with pytest.raises(Refusal):
            raw.ask(requests)
    assert "question CorruptPayload" in cloud.log
    assert "Traceback" not in cloud.log


def test_an_index_beyond_its_codebook(strict: CloudProcess, odd_bundle: Path) -> None:
    sent = payload_of(odd_bundle)
    indices = np.full((NUM_TOKENS, 1), ODD_SIZE - 1, np.int32)
    with RawClient(strict.target) as raw:
        for last, allowed in ((ODD_SIZE - 1, True), (ODD_SIZE, False), (63, False)):
            indices[-1] = last
            body = bits_to_bytes(pack_fields(indices, 6))
            made = replace(sent, body=body, crc32=zlib.crc32(body))
            requests = [opening(sent.manifest_digest), *parts(made)]
            if allowed:
                assert raw.ask(requests).finish_reason
            else:
                words = (f"below {ODD_SIZE}", f"got {last}")
                assert_refused(raw, requests, "CorruptPayload", *words)


@contextmanager
def half_open(target: str, count: int, digest: bytes) -> Iterator[list[Any]]:
    """Streams whose question was opened and whose payload never comes."""
    ended = threading.Event()

    def requests() -> Iterator[pb.AskRequest]:
        message = opening(digest)
        message.open.image_digest = bytes(16)  # not held: the service asks for the payload
        yield message
        ended.wait(20)

    with RawClient(target) as raw:
        try:
            yield [raw.start(requests()) for _ in range(count)]
        finally:
            ended.set()


def test_a_stalled_client_is_hung_up_on(strict: CloudProcess, odd_bundle: Path) -> None:
    digest = payload_of(odd_bundle).manifest_digest
    with half_open(strict.target, 1, digest) as calls:
        assert next(calls[0]).HasField("payload_needed")
        started = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            next(calls[0])
        assert 0.5 * PAYLOAD_SECONDS < time.monotonic() - started < PAYLOAD_SECONDS + 3
        refusal = Refusal(caught.value)
    assert refusal.name == "DeadlineExceeded"
    assert "within 1 s" in refusal.words
    assert_clear(refusal.words)
    assert_serves(strict.target, odd_bundle)


def test_a_flood_of_half_open_streams(strict: CloudProcess, odd_bundle: Path) -> None:
    """They take no place from questions that are whole, and end one by one."""
    digest = payload_of(odd_bundle).manifest_digest
    with half_open(strict.target, 25, digest) as calls:
        assert all(next(call).HasField("payload_needed") for call in calls)
        assert_serves(strict.target, odd_bundle)
        for call in calls:
            with pytest.raises(grpc.RpcError) as caught:
                list(call)
            refusal = Refusal(caught.value)
            assert refusal.name == "DeadlineExceeded"
            assert_clear(refusal.words)
