"""Hostile callers on a running service's connections: others go on, and the log stays small."""

from __future__ import annotations

import re
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.attacks.peers import frames
from benchmarks.harness.processes import CloudProcess
from tests.e2e.raw import LIMIT_S, RawClient, Refusal, assert_clear, assert_serves, opening

STREAMS = 8
MANIFEST_METHOD = "/alignedvq.v1.SplitInference/GetManifest"
INFLATED_BYTES = 60 * 2**20


@pytest.fixture(scope="module")
def small(llava_directory: Path, bundle_directory: Path) -> Iterator[CloudProcess]:
    """A service whose limits are soon reached."""
    options = ("--max_in_flight=4", "--max_arriving=16", f"--max_streams={STREAMS}")
    with CloudProcess(bundle_directory, llava_directory, *options) as process:
        yield process


def connected(cloud: CloudProcess, *first: bytes) -> socket.socket:
    own = socket.create_connection(("127.0.0.1", cloud.port), timeout=LIMIT_S)
    own.sendall(b"".join((frames.opening(), frames.settings_ack(), *first)))
    return own


def test_trickling_and_silent_questions_take_no_places(
    small: CloudProcess, bundle_directory: Path, digest: bytes
) -> None:
    """The hostile calls come from the good client's own address."""
    message = opening(digest, "a question whose payload never comes").SerializeToString()
    whole = b"\0" + struct.pack(">I", len(message)) + message
    with ExitStack() as stack:
        for number in range(10):
            streams = range(1, 2 * STREAMS, 2)
            said = [whole, whole[:7], b""][number % 3]
            calls = b"".join(frames.call(each) + frames.data(each, said) for each in streams)
            stack.enter_context(connected(small, calls))
        for _ in range(3):
            assert_serves(small.target, bundle_directory)


def test_streams_reset_at_once_leave_few_lines(small: CloudProcess, bundle_directory: Path) -> None:
    before = len(small.log)
    for _ in range(3):
        with connected(small) as own, ExitStack() as ended:
            ended.callback(own.close)
            try:
                for number in range(2000):
                    own.sendall(frames.call(2 * number + 1) + frames.reset(2 * number + 1))
            except ConnectionError:
                continue
    assert_serves(small.target, bundle_directory)
    assert len(small.log) - before < 10_000


def test_questions_that_were_refused_or_given_up_leave_their_connection_usable(
    small: CloudProcess, digest: bytes
) -> None:
    with RawClient(small.target) as raw:
        for _ in range(3 * STREAMS):
            with pytest.raises(Refusal) as caught:
                raw.ask([b"\xff\xff\xff"])
            assert caught.value.name == "CorruptPayload"
        for _ in range(3 * STREAMS):
            call = raw.start([opening(digest)])
            time.sleep(0.01)
            call.cancel()
        with pytest.raises(Refusal) as caught:
            raw.ask([b"\xff\xff\xff"])
        assert caught.value.name == "CorruptPayload"


def test_a_message_is_not_inflated(small: CloudProcess, bundle_directory: Path) -> None:
    packed = zlib.compressobj(9, wbits=31)
    body = packed.compress(bytes(INFLATED_BYTES)) + packed.flush()
    message = b"\1" + struct.pack(">I", len(body)) + body
    fields = frames.call(1)
    block = fields[9:] + b"\0" + b"\x0dgrpc-encoding" + b"\x04gzip"
    before = small.resident_bytes()
    with connected(small, frames.frame(frames.HEADERS, frames.END_HEADERS, 1, block)) as own:
        for start in range(0, len(message), 16_384):
            own.sendall(frames.data(1, message[start : start + 16_384]))
        own.settimeout(LIMIT_S)
        said = b""
        while b"grpc-status" not in said:
            piece = own.recv(65_536)
            assert piece, said
            said += piece
    assert b"gzip" in said
    assert small.resident_bytes() - before < INFLATED_BYTES // 4
    assert_serves(small.target, bundle_directory)


def test_a_manifest_asked_for_with_bytes_that_are_no_message(small: CloudProcess) -> None:
    with grpc.insecure_channel(small.target) as channel:
        call: Any = channel.unary_unary(MANIFEST_METHOD)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff", timeout=LIMIT_S)
    error: Any = caught.value
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert_clear(error.details())
    assert "Traceback" not in small.log


def test_strangers_learn_nothing_of_their_manifest_requests(
    llava_directory: Path, bundle_directory: Path, tmp_path: Path
) -> None:
    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(f"edge-1: {'0' * 64}\n")
    with (
        CloudProcess(bundle_directory, llava_directory, f"--tokens={tokens}") as cloud,
        grpc.insecure_channel(cloud.target) as channel,
    ):
        call: Any = channel.unary_unary(MANIFEST_METHOD)
        with pytest.raises(grpc.RpcError) as caught:
            call(b"\xff\xff", timeout=LIMIT_S)
        error: Any = caught.value
        assert error.code() is grpc.StatusCode.UNAUTHENTICATED
        with socket.create_connection(("127.0.0.1", cloud.port)) as own:
            own.sendall(b"\x16\x03\x01 no handshake")
    assert not re.search(r"chttp2|handshak", cloud.log)
