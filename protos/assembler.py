"""Splits a payload into parts on the edge, and assembles them in the cloud."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from aligned_vq.errors import CorruptPayload
from aligned_vq.types import Coding, Payload
from protos.alignedvq.v1 import inference_pb2 as pb

CODINGS: dict[Coding, pb.Coding.ValueType] = {
    "fixed": pb.CODING_FIXED,
    "range": pb.CODING_RANGE,
    "raw": pb.CODING_RAW,
    "context": pb.CODING_CONTEXT,
}
_CODING_OF_NUMBER: dict[int, Coding] = {value: coding for coding, value in CODINGS.items()}


def coding_to_proto(coding: Coding) -> pb.Coding.ValueType:
    """A coding's number on the wire."""
    return CODINGS[coding]


def coding_from_proto(value: int) -> Coding:
    """The coding of a number on the wire.

    Raises:
        CorruptPayload: the number is unknown or unspecified.
    """
    # Enums of proto3 are open: unknown numbers arrive as they are.
    coding = _CODING_OF_NUMBER.get(value)
    if coding is None:
        raise CorruptPayload(
            f"expected a payload coding among {', '.join(CODINGS)}, got number {value}; update the "
            "service, or choose one of these on the edge"
        )
    return coding


def payload_to_parts(payload: Payload, max_chunk_bytes: int = 32_768) -> Iterator[pb.PayloadPart]:
    """The payload as one or more parts of at most `max_chunk_bytes` body bytes, header first.

    The manifest digest is not included, as the question that opens the stream carries it.
    """
    if max_chunk_bytes < 1:
        raise ValueError(
            f"expected max_chunk_bytes of 1 or more, got {max_chunk_bytes}; choose a larger one"
        )
    header = pb.PayloadHeader(
        coding=coding_to_proto(payload.coding),
        num_tokens=payload.num_tokens,
        num_stages=payload.num_stages,
        masked_stages=payload.masked_stages,
        body_bytes=len(payload.body),
        crc32=payload.crc32,
    )
    # Header and bytes together, so that a small payload is one message.
    yield pb.PayloadPart(header=header, chunk=payload.body[:max_chunk_bytes])
    for start in range(max_chunk_bytes, len(payload.body), max_chunk_bytes):
        yield pb.PayloadPart(chunk=payload.body[start : start + max_chunk_bytes])


class PayloadAssembler:
    """Assembles one payload from untrusted parts.

    It holds only bytes that have arrived and never allocates by a number that the client sent.
    After an error or a complete payload every further part is an error.

    Args:
        manifest_digest: 16 bytes, from the question that opened the stream.
        max_body_bytes: longest body to accept.
    """

    def __init__(self, manifest_digest: bytes, max_body_bytes: int) -> None:
        self._manifest_digest = manifest_digest
        self._max_body_bytes = max_body_bytes
        self._header: Payload | None = None
        self._body_bytes = 0
        self._body = bytearray()
        self._closed = False

    def add(self, part: pb.PayloadPart) -> Payload | None:
        """The payload if this part completes it, else None.

        Raises:
            CorruptPayload: the header is missing, repeated or out of range, the body is longer than
                allowed or announced, a part is empty, or no part was expected.
        """
        if self._closed:
            raise CorruptPayload(
                "expected no part after a complete or refused payload, got one; send one payload "
                "per question"
            )
        self._closed = True
        # Closed until this part turns out valid and not the last, so every error closes it.
        if part.HasField("header"):
            self._open(part.header)
        elif not part.chunk:
            raise CorruptPayload(
                "expected bytes in a payload part, got an empty one; send the payload again"
            )
        if self._header is None:
            raise CorruptPayload(
                "expected a header in the first payload part, got none; send the payload again"
            )
        # Checked before the bytes are added: the body never exceeds what was announced.
        received = len(self._body) + len(part.chunk)
        if received > self._body_bytes:
            raise CorruptPayload(
                f"expected the announced {self._body_bytes} bytes, got {received} or more; send "
                "the payload again"
            )
        self._body += part.chunk
        if received == self._body_bytes:
            return replace(self._header, body=bytes(self._body))
        self._closed = False
        return None

    def finish(self) -> None:
        """Check that the payload is complete, when the client has sent everything.

        Raises:
            CorruptPayload: it is incomplete.
        """
        if not self._closed:
            announced = "a header" if self._header is None else f"{self._body_bytes} bytes"
            raise CorruptPayload(
                f"expected {announced}, got the end of the stream after {len(self._body)} bytes; "
                "send the payload again"
            )

    def _open(self, header: pb.PayloadHeader) -> None:
        if self._header is not None:
            raise CorruptPayload(
                "expected a header in the first payload part only, got another; send one payload "
                "per question"
            )
        # Refused by the announced size, before any more of the body arrives.
        if header.body_bytes > self._max_body_bytes:
            raise CorruptPayload(
                f"expected a payload body of at most {self._max_body_bytes} bytes, got one of "
                f"{header.body_bytes}; choose a lower rate on the edge"
            )
        coding = coding_from_proto(header.coding)
        try:
            self._header = Payload(
                manifest_digest=self._manifest_digest,
                num_tokens=header.num_tokens,
                num_stages=header.num_stages,
                masked_stages=header.masked_stages,
                coding=coding,
                # The body follows; creating the payload checks all other fields.
                body=b"",
                crc32=header.crc32,
            )
        except ValueError as error:
            raise CorruptPayload(
                f"expected a valid payload header, got a malformed one ({error}); send the payload "
                "again"
            ) from error
        self._body_bytes = header.body_bytes
