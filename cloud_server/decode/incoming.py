"""What a client sends in one call: a question, and perhaps the payload it is about."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from google.protobuf.message import DecodeError

from aligned_vq.errors import (
    CorruptPayload,
    DeadlineExceeded,
    ImageNotHeld,
    InvalidInput,
    ManifestMismatch,
)
from aligned_vq.types import Payload
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question, ServiceInfo


class Requests(Protocol):
    """The messages of a call. gRPC's own iterator of them holds the call, and a place among its
    connection's streams, until garbage is collected."""

    async def read(self) -> pb.AskRequest:
        """The next one, or `grpc.aio.EOF`."""
        ...


@dataclass(frozen=True)
class ServedBundle:
    """What the wire needs to know of a bundle; the body of its largest payload has
    `max_body_bytes`."""

    info: ServiceInfo
    max_body_bytes: int


ServedBundles = Mapping[bytes, ServedBundle]
"""By the digest of their manifests, at least one; the first is told of unasked."""


def bundle_named(bundles: ServedBundles, digest: bytes) -> ServedBundle:
    """The bundle with that manifest.

    Raises:
        ManifestMismatch: there is none; the words list those there are.
    """
    found = bundles.get(digest)
    if found is None:
        served = ", ".join(own.hex() for own in bundles)
        raise ManifestMismatch(
            f"expected a bundle that is served here, with manifest {served}, got {digest.hex()}; "
            "install the service's bundle on the edge"
        )
    return found


def manifest_digest_of(request: bytes) -> bytes:
    """The manifest that a serialised `GetManifestRequest` names; empty if it names none.

    Raises:
        InvalidInput: it is no such message.
    """
    try:
        return pb.GetManifestRequest.FromString(request).manifest_digest
    except DecodeError as error:
        raise InvalidInput(
            "expected a GetManifestRequest of alignedvq.v1, got bytes that are not one; send one"
        ) from error


class Incoming:
    """Reads one call's messages, each within its time.

    Args:
        requests: the messages.
        bundles: served here.
        question_seconds: longest wait for the first message.
        message_seconds: longest wait for each further one.
    """

    def __init__(
        self,
        requests: Requests,
        bundles: ServedBundles,
        question_seconds: float,
        message_seconds: float,
    ) -> None:
        self._requests = requests
        self._bundles = bundles
        self._question_seconds = question_seconds
        self._message_seconds = message_seconds
        self._first_part: pb.PayloadPart | None = None

    async def question(self) -> Question:
        """The question that opens the stream, about a bundle that is served.

        Raises:
            CorruptPayload: something else came, or what is no message of ours.
            DeadlineExceeded: nothing came in time.
            ManifestMismatch: the bundle is not served.
            InvalidInput: as `question_from_proto` says.
        """
        first = await self._next(self._question_seconds)
        if first is None or first.WhichOneof("kind") != "open":
            raise CorruptPayload(
                f"expected a question as the first message, got {_kind(first)}; open with one"
            )
        question = convert.question_from_proto(first.open)
        bundle_named(self._bundles, question.manifest_digest)
        if first.open.HasField("payload"):
            if question.image_digest or question.text_only:
                raise CorruptPayload(
                    "expected a payload, the digest of an image, or no image, got a payload beside "
                    "one of the others; send one of the three"
                )
            self._first_part = first.open.payload
        return question

    async def payload(self, question: Question) -> Payload:
        """The payload that came with the question or follows it.

        Raises:
            CorruptPayload: it is none, or too large, or not whole.
            DeadlineExceeded: a part did not come in time.
            ImageNotHeld: the question named an image, and the payload is not sent either.
        """
        bundle = bundle_named(self._bundles, question.manifest_digest)
        parts = convert.PayloadAssembler(question.manifest_digest, bundle.max_body_bytes)
        begun = self._first_part is not None
        if self._first_part is not None and (whole := parts.add(self._first_part)):
            return whole
        while True:
            message = await self._next(self._message_seconds)
            if message is None:
                if question.image_digest and not begun:
                    raise ImageNotHeld(
                        f"expected the payload of image {question.image_digest.hex()}, which is "
                        "not held here for this client, got the end of the stream; send it"
                    )
                parts.finish()
                raise CorruptPayload("the stream ended inside a payload; send it again")
            if message.WhichOneof("kind") != "payload":
                raise CorruptPayload(
                    f"expected a payload part, got {_kind(message)}; send one question per stream"
                )
            begun = True
            payload = parts.add(message.payload)
            if payload is not None:
                return payload

    async def _next(self, seconds: float) -> pb.AskRequest | None:
        try:
            async with asyncio.timeout(seconds):
                message: object = await self._requests.read()
                return message if isinstance(message, pb.AskRequest) else None
        except DecodeError as error:
            raise CorruptPayload(
                "expected a message of alignedvq.v1, got bytes that are not one; send it again, "
                "with text in UTF-8"
            ) from error
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"expected the next message within {seconds:g} s, got none; "
                "check the link and ask again"
            ) from error


def _kind(message: pb.AskRequest | None) -> str:
    """What came, in words."""
    if message is None:
        return "the end of the stream"
    return {"open": "a question", "payload": "a payload part"}.get(
        message.WhichOneof("kind") or "", "an empty or unknown message"
    )
