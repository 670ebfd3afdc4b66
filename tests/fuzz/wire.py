"""The wire's messages to our types: a stream of requests, what a service answers, and errors.

Invariant: a stream of messages ends in a checked question and, unless it has none, a whole payload,
or in one of the errors that the client may be told; the payload survives being cut and put together
otherwise. A question, a service's description and a piece of an answer survive the way back to
the wire. Every failed call becomes one of our errors, in printable words, with a wait of an hour at
most.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import grpc
from google.protobuf.message import DecodeError, Message

from aligned_vq.answers import Sampling, TokenChunk, Usage
from aligned_vq.errors import (
    AlignedVQError,
    CorruptPayload,
    EngineError,
    ImageNotHeld,
    InvalidInput,
    ManifestMismatch,
    Overloaded,
)
from aligned_vq.types import Payload
from cloud_server.decode.incoming import Incoming
from cloud_server.decode.served_bundles import ServedBundle
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question, ServiceInfo, Turn
from protos.status import ERROR_KEY, MAX_DETAILS_BYTES, RETRY_KEY, error_from_rpc, status_of
from tests.fuzz.target import Mutate, Target, join, split, vary_pieces
from tests.fuzz.varying.extremes import TEXTS
from tests.fuzz.varying.messages import vary_message

DIGEST = bytes(range(16))
MAX_BODY_BYTES = 300
SERVED = {DIGEST: ServedBundle(ServiceInfo("{}", DIGEST, 100, 100, "1", (DIGEST,)), MAX_BODY_BYTES)}
CODES = tuple(grpc.StatusCode)
_REQUESTS, _DESCRIPTION, _RESPONSE, _FAILURE = range(4)
"""What an input's first byte says it is."""


class _Failure(grpc.RpcError):
    """A failed call, as gRPC hands it out."""

    def __init__(self, pieces: list[bytes]) -> None:
        words = [piece.decode("utf-8", "replace") for piece in pieces[2:]]
        number = pieces[0][0] if pieces and pieces[0] else 0
        self._code = CODES[number] if number < len(CODES) else None
        self._details = pieces[1].decode("utf-8", "replace") if len(pieces) > 1 else None
        self._metadata = tuple(zip(words[::2], words[1::2], strict=False))

    def code(self) -> Any:
        return self._code

    def details(self) -> Any:
        return self._details

    def trailing_metadata(self) -> Any:
        return self._metadata


def check(data: bytes) -> None:
    """See the module's invariant."""
    kind, rest = (data[0] % 4, data[1:]) if data else (0, b"")
    if kind == _REQUESTS:
        asyncio.run(_check_requests(split(rest)))
    elif kind == _FAILURE:
        _check_failure(_Failure(split(rest)))
    else:
        try:
            message = _message(kind, rest)
        except DecodeError:
            return
        if isinstance(message, pb.GetManifestResponse):
            _check_description(message)
        elif isinstance(message, pb.AskResponse):
            _check_response(message)


class _Requests:
    """The messages of a call, parsed as gRPC does, when they are read."""

    def __init__(self, raw: list[bytes]) -> None:
        self._raw = iter(raw)

    async def read(self) -> Any:
        piece = next(self._raw, None)
        return grpc.aio.EOF if piece is None else pb.AskRequest.FromString(piece)


async def _check_requests(raw: list[bytes]) -> None:
    incoming = Incoming(_Requests(raw), SERVED, 5, 30)
    try:
        question = await incoming.question()
    except (CorruptPayload, InvalidInput, ManifestMismatch):
        return
    _check_question(question)
    try:
        payload = None if question.text_only else await incoming.payload(question)
    except (CorruptPayload, ImageNotHeld):
        return
    if payload is not None:
        _check_payload(payload)


def _check_question(question: Question) -> None:
    sent = convert.question_to_proto(question)
    again = convert.question_from_proto(pb.QuestionOpen.FromString(sent.SerializeToString()))
    # A top_p below float32's normal numbers is sent as the smallest of them: 0 would say "all".
    alike = replace(again.sampling, top_p=question.sampling.top_p)
    assert replace(again, sampling=alike) == question
    assert convert.question_to_proto(again) == sent


def _check_payload(payload: Payload) -> None:
    assert len(payload.body) <= MAX_BODY_BYTES
    for size in (1, 7, MAX_BODY_BYTES):
        parts = convert.PayloadAssembler(payload.manifest_digest, MAX_BODY_BYTES)
        found = [parts.add(part) for part in convert.payload_to_parts(payload, size)]
        assert found[:-1] == [None] * (len(found) - 1)
        assert found[-1] == payload
        parts.finish()


def _check_description(message: pb.GetManifestResponse) -> None:
    try:
        info = convert.service_info_from_proto(message)
    except ManifestMismatch:
        return
    assert convert.service_info_from_proto(convert.service_info_to_proto(info)) == info


def _check_response(message: pb.AskResponse) -> None:
    try:
        chunk = convert.chunk_from_response(message)
        digest = convert.image_digest_from_response(message)
    except EngineError:
        return
    responses = list(convert.chunk_to_responses(chunk, digest))
    found = TokenChunk("")
    for response in responses:
        found = found.followed_by(convert.chunk_from_response(response))
        assert convert.image_digest_from_response(response) in (b"", digest)
    assert found == chunk


def _check_failure(failure: _Failure) -> None:
    error = error_from_rpc(failure)
    assert isinstance(error, AlignedVQError)
    words = str(error)
    assert words.isprintable()
    assert len(words.encode()) <= 2 * MAX_DETAILS_BYTES
    if isinstance(error, Overloaded) and error.retry_after_seconds is not None:
        assert 0 <= error.retry_after_seconds <= 3_600
    code, details, metadata = status_of(error)
    again = _Failure([])
    again._code, again._details, again._metadata = code, details, metadata
    assert type(error_from_rpc(again)) is type(error)


def _message(kind: int, data: bytes) -> Message:
    types: dict[int, type[Message]] = {
        _REQUESTS: pb.AskRequest,
        _DESCRIPTION: pb.GetManifestResponse,
        _RESPONSE: pb.AskResponse,
    }
    return types[kind].FromString(data)


def seeds() -> Iterator[bytes]:
    """Whole questions, answers and failures."""
    sampling = Sampling(20, 0.7, 0.9, 5, ("\n", "END"))
    payload = Payload(DIGEST, 50, 2, 2, "fixed", bytes(range(120, 0, -1)), 7)
    question = Question("id", DIGEST, "What is it?", sampling, turns=(Turn("a", "b"),))
    parts = list(convert.payload_to_parts(payload, 50))
    with_payload = pb.AskRequest(open=convert.question_to_proto(question, parts[0]))
    later = [pb.AskRequest(payload=part) for part in parts[1:]]
    alone = pb.AskRequest(open=convert.question_to_proto(question))
    held = pb.AskRequest(open=convert.question_to_proto(replace(question, image_digest=DIGEST)))
    text = pb.AskRequest(open=convert.question_to_proto(replace(question, text_only=True)))
    for stream in (
        [with_payload, *later],
        [alone, pb.AskRequest(payload=parts[0]), *later],
        [held],
        [text],
    ):
        yield bytes([_REQUESTS]) + join(message.SerializeToString() for message in stream)
    info = convert.service_info_to_proto(SERVED[DIGEST].info)
    yield bytes([_DESCRIPTION]) + info.SerializeToString()
    done = TokenChunk("blue", (4, 5), "stop", Usage(3, 2, True))
    for response in convert.chunk_to_responses(done, DIGEST):
        yield bytes([_RESPONSE]) + response.SerializeToString()
    for error in (Overloaded("full"), InvalidInput("wrong")):
        code, details, metadata = status_of(error)
        texts = [details, *(text for pair in (*metadata, (RETRY_KEY, "1500")) for text in pair)]
        pieces = [bytes([CODES.index(code)]), *(text.encode() for text in texts)]
        yield bytes([_FAILURE]) + join(pieces)


def vary(rng: random.Random, data: bytes, mutate: Mutate) -> bytes:
    """A field of one message changed, or messages of a stream moved about; bytes at times."""
    if len(data) < 2 or rng.random() < 0.2:
        return mutate(data, TARGET.max_bytes)
    kind, rest = data[0] % 4, data[1:]

    def vary_one(raw: bytes) -> bytes:
        try:
            message = _message(kind, raw)
        except DecodeError:
            return mutate(raw, TARGET.max_bytes)
        vary_message(rng, message, mutate)
        return message.SerializeToString()

    def vary_words(raw: bytes) -> bytes:
        names = (ERROR_KEY, RETRY_KEY, "InvalidInput", "QuotaExceeded", "DeadlineExceeded", *TEXTS)
        return rng.choice((mutate(raw, 200), rng.choice(names).encode()))

    if kind == _REQUESTS:
        found = join(vary_pieces(rng, split(rest), vary_one))
    elif kind == _FAILURE:
        found = join(vary_pieces(rng, split(rest), vary_words))
    else:
        found = vary_one(rest)
    return (data[:1] + found)[: TARGET.max_bytes]


TARGET = Target("wire", check, seeds, vary, max_bytes=3_000)
