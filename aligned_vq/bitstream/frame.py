"""A payload as one run of bytes: the `.avq` file.

    magic            4 B    93 41 56 51
    version          1 B    BITSTREAM_VERSION
    coding           1 B    its number in CODING_NUMBERS, one less than on the wire
    num_tokens       2 B
    num_stages       1 B
    masked_stages    4 B
    crc32            4 B
    manifest_digest 16 B
    body length      4 B    then the body, and nothing after it

All integers are little-endian. Policy: any change to the bytes that come out for the same indices,
of the frame or of a body, raises BITSTREAM_VERSION. A reader decodes an older version or rejects it
by name; it never guesses.
"""

from __future__ import annotations

import struct

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Coding, Payload

BITSTREAM_VERSION = 1
CODING_NUMBERS: dict[Coding, int] = {"fixed": 0, "range": 1, "raw": 2, "context": 3}

# Not ASCII, so that a text-mode transfer breaks it visibly.
MAGIC = b"\x93AVQ"
_HEADER = struct.Struct("<4sBBHBII16sI")
HEADER_BYTES = _HEADER.size

_CODINGS = {number: coding for coding, number in CODING_NUMBERS.items()}
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
    """The payload in the bytes of an `.avq` file; its body is not decoded here.

    Raises:
        CorruptPayload: not such a file, another version, an unknown coding, impossible numbers,
            truncated, or bytes after the end.
    """
    magic, version = data[: len(MAGIC)], data[len(MAGIC) : len(MAGIC) + 1]
    if magic != MAGIC:
        raise CorruptPayload(
            f"expected an .avq file that begins {MAGIC.hex(' ')}, got {magic.hex(' ')!r}; "
            "check which file this is"
        )
    if version and version[0] != BITSTREAM_VERSION:
        raise CorruptPayload(
            f"expected bitstream version {BITSTREAM_VERSION}, got version {version[0]}; "
            "read it with the release that wrote it, or encode the image again"
        )
    if len(data) < HEADER_BYTES:
        raise CorruptPayload(
            f"expected a header of {HEADER_BYTES} bytes, got {len(data)}; {_REWRITE}"
        )
    _, _, number, tokens, stages, masked, crc32, digest, length = _HEADER.unpack_from(data)
    if number not in _CODINGS:
        raise CorruptPayload(f"expected coding {sorted(_CODINGS)}, got {number}; {_REWRITE}")
    if len(data) != HEADER_BYTES + length:
        raise CorruptPayload(
            f"expected {length} bytes of body, got {len(data) - HEADER_BYTES}; {_REWRITE}"
        )
    try:
        return Payload(digest, tokens, stages, masked, _CODINGS[number], data[HEADER_BYTES:], crc32)
    except ValueError as error:
        raise CorruptPayload(f"expected a possible header, got: {error}; {_REWRITE}") from error
