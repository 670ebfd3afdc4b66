"""Builds valid and broken HTTP/2 frames and gRPC messages, and reads statuses from responses."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
# Numbers of types and flags (RFC 9113, section 6); one bit may have a name for each type.
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
ASK = "/alignedvq.v1.SplitInference/Ask"
MANIFEST = "/alignedvq.v1.SplitInference/GetManifest"

Fields = Iterable[tuple[str, str]]


def frame(
    kind: int, flags: int, stream: int, body: bytes = b"", announced: int | None = None
) -> bytes:
    """One frame; `announced` is the length in its header, by default that of the body."""
    length = len(body) if announced is None else announced
    # The length has 24 bits: the last three bytes of a big-endian 32-bit number.
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + body


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def settings_ack() -> bytes:
    """The acknowledgement of a peer's SETTINGS."""
    return frame(SETTINGS, ACK, 0)


def opening() -> bytes:
    """The first bytes of a well-behaved client: preface and SETTINGS."""
    return PREFACE + settings()


def call_fields(path: str = ASK, other: Fields = ()) -> list[tuple[str, str]]:
    """The header fields of a gRPC call; fields of `other` are added or replace them."""
    fields = {
        ":method": "POST",
        ":scheme": "https",
        ":path": path,
        ":authority": "localhost",
        "content-type": "application/grpc",
        "te": "trailers",
    }
    return [*(fields | dict(other)).items()]


def block(fields: Fields) -> bytes:
    """Header fields in HPACK; each block uses a new encoder, so it depends on no earlier one."""
    return _block(tuple(fields))


@functools.lru_cache(256)
def _block(fields: tuple[tuple[str, str], ...]) -> bytes:
    encoded: bytes = hpack.Encoder().encode(list(fields), huffman=False)
    return encoded


def call(stream: int, path: str = ASK, other: Fields = ()) -> bytes:
    """A HEADERS frame that opens a call."""
    return frame(HEADERS, END_HEADERS, stream, block(call_fields(path, other)))


def reset(stream: int) -> bytes:
    """A RST_STREAM frame with the error code CANCEL."""
    return frame(RESET, 0, stream, struct.pack(">I", 8))


def data(stream: int, body: bytes) -> bytes:
    """A DATA frame that leaves the stream open."""
    return frame(DATA, 0, stream, body)


def message(body: bytes, compressed: int = 0, announced: int | None = None) -> bytes:
    """A gRPC message; its prefix holds the flag `compressed` and the length, or `announced`."""
    return struct.pack(">BI", compressed, len(body) if announced is None else announced) + body


class CallEnd(NamedTuple):
    """How a call ended."""

    status: str
    """The number of the gRPC status."""
    error: str
    """The name of the service's error; empty for an error raised by gRPC itself."""
    message: str

    @property
    def is_bug(self) -> bool:
        """Whether an unexpected exception in the service ended the call.

        gRPC itself answers INTERNAL or UNKNOWN to violations of its protocol, and raises
        UnicodeDecodeError for a path that is not UTF-8.
        """
        if self.error:
            return self.error in ("EngineError", "AlignedVQError")
        return self.message.startswith("Unexpected") and "UnicodeDecodeError" not in self.message


def call_ends(data: bytes) -> Iterator[CallEnd]:
    """The ends of the calls in the bytes that a service sent."""
    # One for all frames, as the streams of a connection share its dynamic table.
    decoder = hpack.Decoder()
    # The head of a frame: length (3), type, flags, stream id (4).
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        kind, flags, body = data[3], data[4], data[9 : 9 + length]
        data = data[9 + length :]
        # Incomplete header blocks are skipped; a truncated frame is the last one.
        if kind != HEADERS or len(body) < length or not flags & END_HEADERS:
            continue
        fields = {bytes(name): bytes(value) for name, value in decoder.decode(body, raw=True)}
        names = (b"grpc-status", b"alignedvq-error", b"grpc-message")
        values = [fields.get(name, b"").decode(errors="replace") for name in names]
        if values[0]:  # trailers, not the headers of a response
            yield CallEnd(*values)
