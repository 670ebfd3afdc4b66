"""A gRPC service that answers as a test says."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent import futures
from contextlib import contextmanager

import grpc

from aligned_vq.answers import TokenChunk, Usage
from aligned_vq.errors import AlignedVQError
from edge_client import EdgeConfig
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import ServiceInfo
from protos.status import status_of

QUICK = EdgeConfig(
    connect_seconds=0.5, first_token_seconds=2, total_seconds=4, backoff_seconds=0.05
)
SLACK_S = 2.0  # a busy machine is late; a wait without a deadline is far later

Responses = Iterator[pb.AskResponse]
Behaviour = Callable[[int], Responses]


class FakeService(rpc.SplitInferenceServicer):
    """Answers as `behaviour` says, which is told how many questions came before."""

    def __init__(self, behaviour: Behaviour, info: ServiceInfo | None = None) -> None:
        self.calls = 0
        self._behaviour = behaviour
        self._info = info

    def GetManifest(  # noqa: N802
        self, request: pb.GetManifestRequest, context: grpc.ServicerContext
    ) -> pb.GetManifestResponse:
        assert self._info is not None
        return convert.service_info_to_proto(self._info)

    def Ask(  # noqa: N802
        self, request_iterator: Iterator[pb.AskRequest], context: grpc.ServicerContext
    ) -> Responses:
        self.calls += 1
        next(request_iterator)
        try:
            yield from self._behaviour(self.calls - 1)
        except AlignedVQError as error:
            code, words, metadata = status_of(error)
            context.set_trailing_metadata(metadata)
            context.abort(code, words)


@contextmanager
def server(
    service: FakeService | None,
    listen_at: str = "127.0.0.1:0",
    interceptors: Sequence[grpc.ServerInterceptor] = (),
) -> Iterator[str]:
    """An in-process gRPC server; with None it offers no service at all."""
    with futures.ThreadPoolExecutor(16) as pool:
        options = [("grpc.so_reuseport", 0)]
        running = grpc.server(pool, interceptors=list(interceptors), options=options)
        if service is not None:
            rpc.add_SplitInferenceServicer_to_server(service, running)
        port = running.add_insecure_port(listen_at)
        running.start()
        try:
            yield f"{listen_at.rpartition(':')[0]}:{port}"
        finally:
            running.stop(None).wait(5)


def text(piece: str) -> pb.AskResponse:
    (response,) = convert.chunk_to_responses(TokenChunk(piece, (7,)))
    return response


def whole_answer(pieces: str = "a red star") -> Responses:
    for piece in pieces.split(" "):
        yield text(f"{piece} ")
    yield from convert.chunk_to_responses(
        TokenChunk("", finish_reason="stop", usage=Usage(20, 3)), bytes(16)
    )


def failing(error: AlignedVQError, times: int = 99, after: int = 0) -> Behaviour:
    """Fails the first `times` questions, each after some pieces of text."""

    def behave(before: int) -> Responses:
        if before >= times:
            yield from whole_answer()
            return
        yield from [text("half ")] * after
        raise error

    return behave


def silent(seconds: float, first: int) -> Behaviour:
    def behave(_: int) -> Responses:
        yield from [text("one ")] * first
        time.sleep(seconds)
        yield text("late")

    return behave
