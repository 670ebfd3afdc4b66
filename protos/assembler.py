"""A payload in parts: cut on the edge, put together in the cloud."""

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
_CODINGS_BACK: dict[int, Coding] = {value: coding for coding, value in CODINGS.items()}


def coding_to_proto(coding: Coding) -> pb.Coding.ValueType:
    """The wire's number for a coding."""
    return CODINGS[coding]


def coding_from_proto(value: int) -> Coding:
    """The coding of a wire number; CorruptPayload for an unknown or unspecified one."""
    coding = _CODINGS_BACK.get(value)
    if coding is None:
        raise CorruptPayload(
            f"a payload's coding must be one of {', '.join(CODINGS)}, got number {value}: "
            "update the service, or choose one of these on the edge"
        )
    return coding


def payload_to_parts(payload: Payload, max_chunk_bytes: int = 32_768) -> Iterator[pb.PayloadPart]:
    """The payload as one or more parts of at most `max_chunk_bytes` body bytes, header first.

    The manifest digest is not in them: the question that opens the stream carries it.
    """
    if max_chunk_bytes < 1:
        raise ValueError(f"max_chunk_bytes must be 1 or more, got {max_chunk_bytes}")
    header = pb.PayloadHeader(
        coding=coding_to_proto(payload.coding),
        num_tokens=payload.num_tokens,
        num_stages=payload.num_stages,
        masked_stages=payload.masked_stages,
        body_bytes=len(payload.body),
        crc32=payload.crc32,
    )
    yield pb.PayloadPart(header=header, chunk=payload.body[:max_chunk_bytes])
    for start in range(max_chunk_bytes, len(payload.body), max_chunk_bytes):
        yield pb.PayloadPart(chunk=payload.body[start : start + max_chunk_bytes])


class PayloadAssembler:
    """Puts one payload together from its parts, trusting none of them.

    It holds the bytes that came and never reserves room by a number the client sent. After an error
    or a complete payload every further part is an error.

    Args:
        manifest_digest: 16 bytes, of the question that opened the stream.
        max_body_bytes: longest body to accept, in bytes.
    """

    def __init__(self, manifest_digest: bytes, max_body_bytes: int) -> None:
        self._manifest_digest = manifest_digest
        self._max_body_bytes = max_body_bytes
        self._head: Payload | None = None
        self._body_bytes = 0
        self._body = bytearray()
        self._closed = False

    def add(self, part: pb.PayloadPart) -> Payload | None:
        """The payload when this part completes it, None while bytes are missing.

        Raises:
            CorruptPayload: the header is missing, repeated or out of range, the body is longer than
                allowed or announced, a part is empty, or no part was expected.
        """
        if self._closed:
            raise CorruptPayload(
                "expected no part after a complete or refused payload, got one: "
                "send one payload per question"
            )
        self._closed = True
        if part.HasField("header"):
            self._open(part.header)
        elif not part.chunk:
            raise CorruptPayload(
                "a payload part must carry bytes, got an empty one: send the payload again"
            )
        if self._head is None:
            raise CorruptPayload(
                "the first payload part must carry a header, got none: send the payload again"
            )
        came = len(self._body) + len(part.chunk)
        if came > self._body_bytes:
            raise CorruptPayload(
                f"the payload announced {self._body_bytes} bytes, got {came} or more: "
                "send the payload again"
            )
        self._body += part.chunk
        if came == self._body_bytes:
            return replace(self._head, body=bytes(self._body))
        self._closed = False
        return None

    def finish(self) -> None:
        """Call when the client has sent all: CorruptPayload unless the payload is complete."""
        if not self._closed:
            announced = "a header" if self._head is None else f"{self._body_bytes} bytes"
            raise CorruptPayload(
                f"expected {announced}, but the stream ended after {len(self._body)} bytes: "
                "send the payload again"
            )

    def _open(self, header: pb.PayloadHeader) -> None:
        if self._head is not None:
            raise CorruptPayload(
                "only the first payload part may carry a header, got another: "
                "send one payload per question"
            )
        if header.body_bytes > self._max_body_bytes:
            raise CorruptPayload(
                f"a payload body has at most {self._max_body_bytes} bytes here, "
                f"got one of {header.body_bytes}: choose a lower rate on the edge"
            )
        coding = coding_from_proto(header.coding)
        try:
            self._head = Payload(
                manifest_digest=self._manifest_digest,
                num_tokens=header.num_tokens,
                num_stages=header.num_stages,
                masked_stages=header.masked_stages,
                coding=coding,
                body=b"",
                crc32=header.crc32,
            )
        except ValueError as error:
            raise CorruptPayload(
                f"the payload header cannot be right ({error}): send the payload again"
            ) from error
        self._body_bytes = header.body_bytes
