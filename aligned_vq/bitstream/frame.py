"""The `.avq` file format: one payload with a header.

    magic            4 B    93 41 56 51
    version          1 B    BITSTREAM_VERSION
    coding           1 B    number in CODING_NUMBERS, one less than in the protocol buffer
    num_tokens       2 B
    num_stages       1 B
    masked_stages    4 B
    crc32            4 B
    manifest_digest 16 B
    body length      4 B    followed by the body, which ends the file

All integers are little-endian. Policy: any change of the bytes for the same indices, in the frame
or in a body, increments BITSTREAM_VERSION. A reader decodes an older version or rejects it with an
error that names the version; it never guesses.
"""

from __future__ import annotations

import struct

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Coding, Payload

BITSTREAM_VERSION = 1
# Part of the format: a number is never changed or used again.
CODING_NUMBERS: dict[Coding, int] = {"fixed": 0, "range": 1, "raw": 2, "context": 3}

# The first byte is not ASCII, so that a transfer in text mode is detected.
MAGIC = b"\x93AVQ"
# "<": little-endian and without alignment gaps.
_HEADER = struct.Struct("<4sBBHBII16sI")
HEADER_BYTES = _HEADER.size

_CODING_BY_NUMBER = {number: coding for coding, number in CODING_NUMBERS.items()}
_REWRITE = "write the file again"


def to_frame(payload: Payload) -> bytes:
    """The bytes of an `.avq` file: a header of 37 bytes and the body."""
    header = _HEADER.pack(
        MAGIC,
        BITSTREAM_VERSION,
        CODING_NUMBERS[payload.coding],
        payload.num_tokens,
        payload.num_stages,
        payload.masked_stages,
        payload.crc32,
        payload.manifest_digest,
        len(payload.body),
    )
    return header + payload.body


def from_frame(data: bytes) -> Payload:
    """The payload in the bytes of an `.avq` file; its body is not decoded.

    Raises:
        CorruptPayload: wrong magic or version, an unknown coding, a field out of range, a truncated
            file, or bytes after the body.
    """
    # Slices, because the file may be shorter than the header.
    magic, version = data[: len(MAGIC)], data[len(MAGIC) : len(MAGIC) + 1]
    if magic != MAGIC:
        raise CorruptPayload(
            f"expected an .avq file that begins with {MAGIC.hex(' ')}, got {magic.hex(' ')!r}; "
            "check the file name"
        )
    # Before the length of the header, which another version may change.
    if version and version[0] != BITSTREAM_VERSION:
        raise CorruptPayload(
            f"expected bitstream version {BITSTREAM_VERSION}, got version {version[0]}; "
            "read it with the release that wrote it, or encode the image again"
        )
    if len(data) < HEADER_BYTES:
        raise CorruptPayload(
            f"expected a header of {HEADER_BYTES} bytes, got {len(data)}; {_REWRITE}"
        )
    _, _, coding, tokens, stages, masked, crc32, digest, length = _HEADER.unpack_from(data)
    if coding not in _CODING_BY_NUMBER:
        raise CorruptPayload(
            f"expected coding {sorted(_CODING_BY_NUMBER)}, got {coding}; {_REWRITE}"
        )
    if len(data) != HEADER_BYTES + length:
        raise CorruptPayload(
            f"expected {length} bytes of body, got {len(data) - HEADER_BYTES}; {_REWRITE}"
        )
    try:
        return Payload(
            manifest_digest=digest,
            num_tokens=tokens,
            num_stages=stages,
            masked_stages=masked,
            coding=_CODING_BY_NUMBER[coding],
            body=data[HEADER_BYTES:],
            crc32=crc32,
        )
    except ValueError as error:
        # Payload raises ValueError for a caller's mistake; here the file is at fault.
        raise CorruptPayload(f"expected a valid header, got: {error}; {_REWRITE}") from error
