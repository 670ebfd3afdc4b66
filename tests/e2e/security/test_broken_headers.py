"""Headers that are no UTF-8, and what breaks HTTP/2, are not quoted by any log."""

from __future__ import annotations

import contextlib
import socket

import hpack

from benchmarks.attacks.peers.frames import (
    ASK,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    call_ends,
    call_fields,
    frame,
    message,
    opening,
)
from benchmarks.harness.processes import CloudProcess

TOKEN = b"quetzalcoatl"


def sent(cloud: CloudProcess, data: bytes) -> bytes:
    """What a service says to some bytes until it falls silent."""
    found = b""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", cloud.port)) as raw:
        raw.sendall(opening() + data)
        raw.settimeout(1)
        while more := raw.recv(65_536):
            found += more
    return found


def call_with(name: bytes, value: bytes) -> bytes:
    fields = {key.encode(): words.encode() for key, words in call_fields()} | {name: value}
    block = hpack.Encoder().encode(list(fields.items()), huffman=False)
    return frame(HEADERS, END_HEADERS, 1, block) + frame(DATA, END_STREAM, 1, message(b"x"))


def test_no_log_quotes_a_peer(cloud: CloudProcess) -> None:
    before = len(cloud.log)
    for name, value in (
        (b"authorization", b"Bearer \xf6" + TOKEN),
        (b"traceparent", b"\xf6" + TOKEN),
        (b":path", ASK.encode() + b"\xf6" + TOKEN),
        (b"te", TOKEN),
        (b"grpc-encoding", TOKEN),
        (b"grpc-timeout", TOKEN),
    ):
        for end in call_ends(sent(cloud, call_with(name, value))):
            assert not end.is_bug, (name, end)
    sent(cloud, frame(GOAWAY, 0, 0, bytes(8) + TOKEN))
    log = cloud.log[before:]
    assert TOKEN.decode() not in log
    assert "_parser.cc" not in log
    assert "_transport.cc" not in log
