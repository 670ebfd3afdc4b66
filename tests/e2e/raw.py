"""A client that checks nothing: what an old, broken or hostile one may put on the wire."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, Self

import grpc
import numpy as np
from PIL import Image

from aligned_vq.types import Payload
from edge_client import EdgeClient, EdgeConfig
from edge_client.encoder import EdgeEncoder
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.status import ERROR_KEY
from tests.conftest import IMAGE_SIDE
from tests.privacy import SECRETS

ASK_METHOD = "/alignedvq.v1.SplitInference/Ask"
CHANNEL_OPTIONS = (("grpc.enable_http_proxy", 0),)
LIMIT_S = 20.0
GOOD_QUESTION = "What colour is the star?"


class Refusal(Exception):
    """How a call ended when it was not answered."""

    def __init__(self, call: Any) -> None:
        self.code: grpc.StatusCode = call.code()
        self.words: str = call.details()
        named = dict(call.trailing_metadata())
        self.name = named.get(ERROR_KEY)
        """The error's class as the service named it; None when gRPC itself refused."""
        super().__init__(f"{self.code} {self.name} {self.words}")


class RawAnswer(NamedTuple):
    text: str
    finish_reason: int


class RawClient:
    """One channel; requests are messages, or bytes that go out as they are."""

    def __init__(self, target: str, token: str = "", channel: grpc.Channel | None = None) -> None:
        self.metadata = (("authorization", f"Bearer {token}"),) if token else ()
        self.channel = channel or grpc.insecure_channel(target, options=CHANNEL_OPTIONS)
        self._ask: Any = self.channel.stream_stream(
            ASK_METHOD,
            request_serializer=lambda r: r if isinstance(r, bytes) else r.SerializeToString(),
            response_deserializer=pb.AskResponse.FromString,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.channel.close()

    def start(self, requests: Iterable[pb.AskRequest | bytes], seconds: float = LIMIT_S) -> Any:
        """The call itself, for who wants to read it piece by piece."""
        return self._ask(iter(requests), timeout=seconds, metadata=self.metadata)

    def ask(self, requests: Iterable[pb.AskRequest | bytes], seconds: float = LIMIT_S) -> RawAnswer:
        """The whole answer; Refusal when there is none."""
        call = self.start(requests, seconds)
        try:
            responses = list(call)
        except grpc.RpcError as error:
            raise Refusal(error) from error
        text = "".join(response.chunk.text for response in responses)
        SECRETS.add_text("answer", text)
        return RawAnswer(text, responses[-1].done.finish_reason)


def opening(digest: bytes, question: str = GOOD_QUESTION, **sampling: Any) -> pb.AskRequest:
    """The message that opens a question, unchecked."""
    SECRETS.add_text("question", question)
    params = pb.SamplingParams(**{"max_tokens": 4, **sampling})
    return pb.AskRequest(
        open=pb.QuestionOpen(manifest_digest=digest, question=question, sampling=params)
    )


def parts(payload: Payload, **header: Any) -> Iterator[pb.AskRequest]:
    """A payload's messages, with some header fields replaced by what was never true."""
    for part in convert.payload_to_parts(payload):
        if part.HasField("header"):
            for name, value in header.items():
                setattr(part.header, name, value)
        yield pb.AskRequest(payload=part)


def picture(seed: int = 3) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    return Image.fromarray(pixels)


def payload_of(bundle: Path, seed: int = 3) -> Payload:
    """A picture's payload in fixed coding, where every byte counts."""
    return EdgeEncoder(bundle).encode(picture(seed), coding="fixed").payload


def with_body(payload: Payload, body: bytes) -> Payload:
    return replace(payload, body=body)


def assert_serves(target: str, bundle: Path) -> None:
    """The service answers a good question, at the first attempt and soon."""
    config = EdgeConfig(attempts=1, connect_seconds=5, first_token_seconds=10, total_seconds=20)
    with EdgeClient(target, bundle, config) as client:
        answer = client.ask(picture(), GOOD_QUESTION, max_tokens=4)
    assert answer.details.usage.completion_tokens >= 1
    assert answer.details.attempts == 1


def assert_clear(words: str) -> None:
    """One line that says what was expected, what came and, after a mark, what to do."""
    assert "\n" not in words
    assert len(words.encode()) <= 1000
    assert re.search(r"expected| must | may | at most | has | announced ", words), words
    assert re.search(r"got|none|ended after", words), words
    assert re.search(r"[;:] \w", words), words
