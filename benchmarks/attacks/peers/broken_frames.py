"""Seeded bytes of a hostile or faulty peer below gRPC: HTTP/2, HPACK, gRPC's prefix, TLS.

Each kind yields the chunks of one connection, some kilobytes to megabytes in total. Kinds in
`RECORDS` replace TLS records; all others are sent inside TLS.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

import numpy as np

from benchmarks.attacks.peers.frames import (
    ACK,
    ASK,
    CONTINUATION,
    DATA,
    END_HEADERS,
    END_STREAM,
    GOAWAY,
    HEADERS,
    MANIFEST,
    PADDED,
    PING,
    PREFACE,
    PRIORITY,
    PUSH,
    SETTINGS,
    WINDOW,
    block,
    call,
    call_fields,
    data,
    frame,
    message,
    opening,
    reset,
    settings,
)

Random = np.random.Generator
Kind = Callable[[Random, bytes], Iterator[bytes]]
"""Takes a random generator and a valid serialised question; yields the bytes to send."""

FLOOD = 2_000
"""Frames that a flood sends on one connection."""
PING_DATA = b"\0" * 8


def _streams(count: int) -> range:
    """The ids of the first streams that a client opens, which are odd."""
    return range(1, 2 * count, 2)


def bad_prefaces(rng: Random, question: bytes) -> Iterator[bytes]:
    """The preface of another protocol, or a part of the right one."""
    cut = int(rng.integers(len(PREFACE)))
    bad = (b"GET / HTTP/1.1\r\n\r\n", PREFACE[:cut], PREFACE[:cut] + b"\xff" * 40, rng.bytes(200))
    yield (*bad, PREFACE + frame(PING, 0, 0, PING_DATA))[int(rng.integers(5))]


def settings_floods(rng: Random, question: bytes) -> Iterator[bytes]:
    """A flood of SETTINGS frames, some of them invalid."""
    yield opening()
    # By number (RFC 9113, 6.5.2): a window (4) has 31 bits, a frame (5) at least 2**14 bytes.
    odd = ((4, 2**32 - 1), (5, 1), (1, 2**32 - 1), (2, 7), (0xFFFF, 1), (3, 0), (6, 0))
    for number in range(20):
        yield settings(odd[number % 7], (1, int(rng.integers(2**20)))) * (FLOOD // 20)


def window_overflows(rng: Random, question: bytes) -> Iterator[bytes]:
    """Window updates beyond 31 bits, by zero, and for streams that do not exist."""
    yield opening() + call(1)
    for stream in (1, 0, 77, int(rng.integers(2**31))):
        yield frame(WINDOW, 0, stream, struct.pack(">I", int(rng.choice([0, 1, 2**31 - 1])))) * 40


def continuation_floods(rng: Random, question: bytes) -> Iterator[bytes]:
    """Header blocks that never end."""
    yield opening() + frame(HEADERS, 0, 1, block(call_fields()))
    field = block([("x-" + "a" * 100, "b" * 100)])
    for _ in range(20):
        yield frame(CONTINUATION, 0, 1, field * int(rng.integers(1, 20))) * (FLOOD // 20)


def hpack_bombs(rng: Random, question: bytes) -> Iterator[bytes]:
    """A large field referenced thousands of times, invalid indices, and oversized tables."""
    yield opening()
    # A literal that enters the dynamic table, then 15,000 one-byte references to it.
    large = b"\x40\x01x" + b"\x7f" + b"\xa1\x1e" + b"v" * 4000
    yield frame(HEADERS, END_HEADERS, 1, block(call_fields()) + large + b"\xbe" * 15_000)
    for stream, tail in (
        # An endless integer, a huge table size, the invalid index 0 (RFC 7541, 5.1, 6.3, 6.1).
        (3, b"\xff" * 9),
        (5, b"\x3f\xff\xff\xff\x0f"),
        (7, b"\x80"),
        (9, rng.bytes(99)),
    ):
        yield frame(HEADERS, END_HEADERS, stream, block(call_fields()) + tail)


def priority_loops(rng: Random, question: bytes) -> Iterator[bytes]:
    """Priorities that make streams depend on themselves and on each other."""
    yield opening()
    for _ in range(FLOOD // 100):
        # Odd, as the ids of a client's streams are.
        pairs = rng.integers(1, 50, (100, 2)) * 2 - 1
        yield b"".join(
            frame(PRIORITY, 0, int(one), struct.pack(">IB", int(other), 255))
            for one, other in pairs
        )
    yield frame(PRIORITY, 0, 1, struct.pack(">IB", 1, 0))


def reset_storms(rng: Random, question: bytes) -> Iterator[bytes]:
    """Calls that are reset as soon as they are opened, and a reset of a stream that is not open."""
    yield opening()
    for start in range(0, FLOOD, 100):
        streams = _streams(FLOOD)[start : start + 100]
        yield b"".join(call(one) + reset(one) for one in streams)
    yield reset(99_999)


def oversized_frames(rng: Random, question: bytes) -> Iterator[bytes]:
    """Frames that exceed the limit, lie about their length, or have an invalid size or type."""
    yield opening() + call(1)
    match int(rng.integers(4)):
        case 0:
            # HTTP/2's default limit is 16,384 bytes.
            yield data(1, bytes(20_000))
        case 1:
            yield frame(DATA, 0, 1, bytes(100), announced=2**24 - 1)
        case 2:
            # SETTINGS have a multiple of six bytes, a PING eight (RFC 9113, 6.5 and 6.7).
            yield frame(SETTINGS, 0, 0, bytes(7)) + frame(PING, 0, 0, bytes(9))
        case _:
            # 255 bytes of padding in a body of 11; then an unknown type with every flag.
            yield frame(DATA, PADDED, 1, b"\xff" + bytes(10)) + frame(
                int(rng.integers(10, 256)), 255, 1
            )


def ping_floods(rng: Random, question: bytes) -> Iterator[bytes]:
    """Pings, acknowledgements of pings that were never sent, and a GOAWAY."""
    yield opening()
    for _ in range(20):
        yield frame(PING, int(rng.integers(2)) * ACK, 0, rng.bytes(8)) * (FLOOD // 20)
    # The highest stream id, and the error ENHANCE_YOUR_CALM.
    yield frame(GOAWAY, 0, 0, struct.pack(">II", 2**31 - 1, 11) + rng.bytes(100))


def data_beyond_the_window(rng: Random, question: bytes) -> Iterator[bytes]:
    """More data than the window permits, and data on a stream that is not open."""
    yield opening() + call(1)
    # The initial window has 65,535 bytes (RFC 9113, 6.9.2).
    for _ in range(60):
        yield data(1, bytes(16_384))
    yield data(int(rng.integers(2, 1000)), question)


def trailers_in_the_middle(rng: Random, question: bytes) -> Iterator[bytes]:
    """Headers between data frames, without END_STREAM, twice, or on a closed stream."""
    yield opening() + call(1) + data(1, message(question)[:9])
    # The random flag is END_STREAM (1).
    trailer = frame(HEADERS, END_HEADERS | int(rng.integers(2)), 1, block([("x-late", "1")]))
    yield trailer + frame(DATA, END_STREAM, 1, message(question)[9:]) + trailer + call(1)
    # Only a server may push, and a client's streams have odd ids.
    yield frame(PUSH, END_HEADERS, 1, b"\0\0\0\2" + block(call_fields())) + call(2)


def lying_lengths(rng: Random, question: bytes) -> Iterator[bytes]:
    """Message prefixes with wrong lengths, up to four gigabytes."""
    announced = (0, 1, len(question) - 1, len(question) + 1, 2**31, 2**32 - 1)
    yield opening()
    for stream, length in zip(_streams(len(announced)), announced, strict=True):
        yield call(stream) + frame(DATA, END_STREAM, stream, message(question, announced=length))


def compressed_flags(rng: Random, question: bytes) -> Iterator[bytes]:
    """Messages flagged as compressed, with and without a valid encoding, to both methods."""
    bomb = b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + rng.bytes(60)
    yield opening()
    for stream, (path, coding) in zip(
        _streams(6),
        ((path, coding) for path in (ASK, MANIFEST) for coding in ("gzip", "identity", "zstd")),
        strict=True,
    ):
        body = message(
            (bomb, question)[int(rng.integers(2))], compressed=int(rng.choice([1, 2, 255]))
        )
        yield call(stream, path, [("grpc-encoding", coding)]) + frame(
            DATA, END_STREAM, stream, body
        )


def damaged_messages(rng: Random, question: bytes) -> Iterator[bytes]:
    """Bytes that are not a serialised message, to both methods."""
    yield opening()
    for stream in _streams(8):
        path = MANIFEST if stream % 4 == 1 else ASK
        # b"\n\x7f": field 1 announces 127 bytes that do not follow.
        body = message((b"\xff" * 9, rng.bytes(30), b"\n\x7f", b"")[int(rng.integers(4))])
        yield call(stream, path) + frame(DATA, END_STREAM, stream, body)


def wrong_requests(rng: Random, question: bytes) -> Iterator[bytes]:
    """Wrong methods, paths and types; headers that are repeated, missing, upper-case or broken."""
    yield opening()
    odd = (
        {"content-type": "application/json"},
        {":method": "GET"},
        {":path": "/nowhere/At" + "a" * int(rng.integers(4_000))},
        {":path": ""},
        {"te": "gzip", "grpc-timeout": "99999999999H"},
        {"grpc-timeout": "0n"},
        {"Upper": "1"},
        {"x-break": "a\r\nb: c"},
        {"connection": "close", "content-length": "7"},
        {"authorization": "Bearer " + "\xe9" * 50, "traceparent": "00-" + "0" * 60},
    )
    for stream, other in zip(_streams(len(odd)), odd, strict=True):
        yield call(stream, other=other.items()) + frame(DATA, END_STREAM, stream, message(question))
    # Pseudo-header fields behind ordinary ones are malformed (RFC 9113, 8.3).
    missing = call_fields()[int(rng.integers(1, 4)) :]
    yield frame(HEADERS, END_HEADERS | END_STREAM, 101, block(missing + call_fields()))


def flipped(rng: Random, question: bytes) -> Iterator[bytes]:
    """A valid call with some bits flipped."""
    # Without the preface: damage there would end every connection at once.
    raw = bytearray(settings() + call(1) + frame(DATA, END_STREAM, 1, message(question)))
    for _ in range(int(rng.integers(1, 8))):
        raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    yield PREFACE + bytes(raw)


def half_records(rng: Random, question: bytes) -> Iterator[bytes]:
    """Incomplete TLS records, and records of invalid types and lengths."""
    # A ClientHello that announces 200 bytes and ends before.
    hello = bytes.fromhex("16030100c8010000c40303") + rng.bytes(32) + b"\0" * 20
    kind = bytes([int(rng.choice([20, 21, 22, 23, 24, 255]))])
    yield (
        hello[: int(rng.integers(1, len(hello)))],
        kind + b"\x03\x03\xff\xff" + rng.bytes(300),
        kind + b"\x03\x03\0\0" * 500,
        b"\x80\x2e\x01\0\x02" + rng.bytes(40),
    )[int(rng.integers(4))]


def plain_text(rng: Random, question: bytes) -> Iterator[bytes]:
    """A valid call without TLS."""
    yield opening() + call(1) + frame(DATA, END_STREAM, 1, message(question))


KINDS: dict[str, Kind] = {
    kind.__name__: kind
    for kind in (
        *(bad_prefaces, settings_floods, window_overflows, continuation_floods, hpack_bombs),
        *(priority_loops, reset_storms, oversized_frames, ping_floods, data_beyond_the_window),
        *(trailers_in_the_middle, lying_lengths, compressed_flags, damaged_messages),
        *(wrong_requests, flipped, half_records, plain_text),
    )
}
RECORDS = frozenset({"half_records", "plain_text"})
