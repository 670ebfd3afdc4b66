"""HTTP/2 frames and gRPC's prefix, right or wrong, and the statuses in what comes back."""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterable, Iterator
from typing import NamedTuple

import hpack

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, PRIORITY, RESET, SETTINGS, PUSH, PING, GOAWAY, WINDOW, CONTINUATION = range(10)
END_STREAM, ACK, END_HEADERS, PADDED = 1, 1, 4, 8
ASK = "/alignedvq.v1.SplitInference/Ask"
MANIFEST = "/alignedvq.v1.SplitInference/GetManifest"

Fields = Iterable[tuple[str, str]]


def frame(
    kind: int, flags: int, stream: int, body: bytes = b"", announced: int | None = None
) -> bytes:
    """One frame; `announced` is the length it claims, its own by default."""
    length = len(body) if announced is None else announced
    return struct.pack(">I", length)[1:] + struct.pack(">BBI", kind, flags, stream) + body


def settings(*pairs: tuple[int, int]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *pair) for pair in pairs))


def settings_ack() -> bytes:
    """The answer to a peer's SETTINGS."""
    return frame(SETTINGS, ACK, 0)


def opening() -> bytes:
    """How a good client begins."""
    return PREFACE + settings()


def call_fields(path: str = ASK, other: Fields = ()) -> list[tuple[str, str]]:
    """The headers of a gRPC call; `other` are added or replace some."""
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
    """Header fields as HPACK; nothing is remembered from one to the next."""
    return _block(tuple(fields))


@functools.lru_cache(256)
def _block(fields: tuple[tuple[str, str], ...]) -> bytes:
    encoded: bytes = hpack.Encoder().encode(list(fields), huffman=False)
    return encoded


def call(stream: int, path: str = ASK, other: Fields = ()) -> bytes:
    """A HEADERS frame that opens a call."""
    return frame(HEADERS, END_HEADERS, stream, block(call_fields(path, other)))


def reset(stream: int) -> bytes:
    """A RST_STREAM frame: CANCEL."""
    return frame(RESET, 0, stream, struct.pack(">I", 8))


def data(stream: int, body: bytes) -> bytes:
    """A DATA frame that leaves the stream open."""
    return frame(DATA, 0, stream, body)


def message(body: bytes, compressed: int = 0, announced: int | None = None) -> bytes:
    """A message behind gRPC's prefix."""
    return struct.pack(">BI", compressed, len(body) if announced is None else announced) + body


class Ended(NamedTuple):
    """How a call ended."""

    status: str
    """gRPC's number."""
    error: str
    """The name of our error, empty where it was gRPC's own."""
    words: str

    @property
    def is_bug(self) -> bool:
        """Did an exception of ours end it? gRPC itself answers INTERNAL or UNKNOWN to what breaks
        its protocol, and with an exception of its own to a path that is no UTF-8."""
        if self.error:
            return self.error in ("EngineError", "AlignedVQError")
        return self.words.startswith("Unexpected") and "UnicodeDecodeError" not in self.words


def ends(data: bytes) -> Iterator[Ended]:
    """Of every call that ended in what a service sent, how."""
    decoder = hpack.Decoder()
    while len(data) >= 9:
        length = int.from_bytes(data[:3], "big")
        kind, flags, body = data[3], data[4], data[9 : 9 + length]
        data = data[9 + length :]
        if kind != HEADERS or len(body) < length or not flags & END_HEADERS:
            continue
        fields = {bytes(name): bytes(value) for name, value in decoder.decode(body, raw=True)}
        names = (b"grpc-status", b"alignedvq-error", b"grpc-message")
        found = [fields.get(name, b"").decode(errors="replace") for name in names]
        if found[0]:
            yield Ended(*found)
