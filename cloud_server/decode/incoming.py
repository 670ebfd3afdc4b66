"""Reads the client's messages of one call: a question, and perhaps the payload of its image."""

from __future__ import annotations

import asyncio
from typing import Protocol

from google.protobuf.message import DecodeError

from aligned_vq.errors import (
    CorruptPayload,
    DeadlineExceeded,
    ImageNotHeld,
    InvalidInput,
)
from aligned_vq.types import Payload
from cloud_server.decode.served_bundles import ServedBundles, find_bundle
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question


class Requests(Protocol):
    """The messages of a call, read one by one: gRPC's iterator over them forms a reference cycle
    that holds the call, and one of its connection's streams, until the garbage collector runs."""

    async def read(self) -> pb.AskRequest:
        """The next message, or `grpc.aio.EOF`."""
        ...


def manifest_digest_of(request: bytes) -> bytes:
    """The manifest digest in a serialised `GetManifestRequest`; empty if it names none.

    Raises:
        InvalidInput: the bytes are not such a message.
    """
    try:
        return pb.GetManifestRequest.FromString(request).manifest_digest
    except DecodeError as error:
        raise InvalidInput(
            "expected a GetManifestRequest of alignedvq.v1, got bytes that are not one; send one"
        ) from error


class Incoming:
    """Reads and checks one call's messages, each with a time limit.

    Args:
        requests: the call's messages.
        bundles: those that the service decodes for.
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
            CorruptPayload: the first message is not a question, or does not parse.
            DeadlineExceeded: no message arrived in time.
            ManifestMismatch: the bundle is not served.
            InvalidInput: as `question_from_proto`.
        """
        first = await self._next(self._question_seconds)
        if first is None or first.WhichOneof("kind") != "open":
            raise CorruptPayload(
                f"expected a question as the first message, got {_describe(first)}; open with one"
            )
        question = convert.question_from_proto(first.open)
        # Refused now rather than after a payload that no bundle here can decode.
        find_bundle(self._bundles, question.manifest_digest)
        if first.open.HasField("payload"):
            if question.image_digest or question.text_only:
                raise CorruptPayload(
                    "expected a payload, the digest of an image, or no image, got a payload beside "
                    "one of the others; send one of the three"
                )
            self._first_part = first.open.payload
        return question

    async def payload(self, question: Question) -> Payload:
        """The payload, from the question's message or from those that follow it.

        Raises:
            CorruptPayload: it is malformed, too large or incomplete.
            DeadlineExceeded: a part did not arrive in time.
            ImageNotHeld: the question named a cached image that is gone, and no payload follows.
        """
        bundle = find_bundle(self._bundles, question.manifest_digest)
        assembler = convert.PayloadAssembler(question.manifest_digest, bundle.max_body_bytes)
        started = self._first_part is not None
        # A small payload is complete with the first message.
        if self._first_part is not None and (complete := assembler.add(self._first_part)):
            return complete
        while True:
            message = await self._next(self._message_seconds)
            if message is None:
                if question.image_digest and not started:
                    raise ImageNotHeld(
                        f"expected the payload of image {question.image_digest.hex()}, which is "
                        "not held here for this client, got the end of the stream; send it"
                    )
                assembler.finish()
                raise CorruptPayload(
                    "expected the rest of the payload, got the end of the stream; send it again"
                )
            if message.WhichOneof("kind") != "payload":
                raise CorruptPayload(
                    f"expected a payload part, got {_describe(message)}; send one question per "
                    "stream"
                )
            started = True
            payload = assembler.add(message.payload)
            if payload is not None:
                return payload

    async def _next(self, seconds: float) -> pb.AskRequest | None:
        try:
            async with asyncio.timeout(seconds):
                message: object = await self._requests.read()
                # `grpc.aio.EOF` is no message.
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


def _describe(message: pb.AskRequest | None) -> str:
    """A description of a message for errors."""
    if message is None:
        return "the end of the stream"
    return {"open": "a question", "payload": "a payload part"}.get(
        message.WhichOneof("kind") or "", "an empty or unknown message"
    )
