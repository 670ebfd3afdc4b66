"""Whatever answers at the address, or does not: one clear error, within its deadline."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent import futures
from dataclasses import replace
from pathlib import Path
from typing import Any

import grpc
import pytest

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    CorruptPayload,
    DeadlineExceeded,
    EngineError,
    InvalidInput,
    ManifestMismatch,
    Overloaded,
)
from cloud_server.access.sockets import accepted_sockets, shut_down
from edge_client import EdgeClient, EdgeConfig
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import ServiceInfo
from tests.e2e.raw import GOOD_QUESTION, assert_clear, picture
from tests.edge.connection.fake_service import (
    QUICK,
    SLACK_S,
    FakeService,
    failing,
    server,
    silent,
    text,
    whole_answer,
)


@pytest.fixture
def ask(bundle_directory: Path) -> Callable[..., Any]:
    """`ask(target, config)` asks once and measures; it gives `(answer or error, seconds)`."""

    def run(target: str, config: EdgeConfig = QUICK, verb: str = "ask") -> tuple[Any, float]:
        with EdgeClient(target, bundle_directory, config) as client:
            started = time.monotonic()
            try:
                result: Any = (
                    client.check() if verb == "check" else client.ask(picture(), GOOD_QUESTION)
                )
            except AlignedVQError as error:
                result = error
            return result, time.monotonic() - started

    return run


@pytest.mark.parametrize("verb", ["ask", "check"])
def test_nothing_listens(ask: Callable[..., Any], verb: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        target = f"127.0.0.1:{closed.getsockname()[1]}"
    error, seconds = ask(target, replace(QUICK, attempts=8), verb)
    assert type(error) is CloudUnreachable
    assert target in str(error)
    assert_clear(str(error))
    assert seconds < QUICK.connect_seconds + SLACK_S  # once, not once per attempt


def test_a_port_that_accepts_and_never_speaks(ask: Callable[..., Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as mute:
        target = f"127.0.0.1:{mute.getsockname()[1]}"
        error, seconds = ask(target)
    assert isinstance(error, CloudUnreachable)
    assert "speaks gRPC" in str(error)
    assert_clear(str(error))
    assert seconds < QUICK.connect_seconds + SLACK_S


def test_a_web_server(ask: Callable[..., Any]) -> None:
    handler = http.server.BaseHTTPRequestHandler
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as web:
        thread = threading.Thread(target=web.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        try:
            error, seconds = ask(f"127.0.0.1:{web.server_address[1]}")
        finally:
            web.shutdown()
            thread.join()
    assert isinstance(error, CloudUnreachable)
    assert "speaks gRPC" in str(error)
    assert seconds < QUICK.connect_seconds + SLACK_S


@pytest.mark.parametrize("verb", ["ask", "check"])
def test_a_grpc_server_of_something_else(ask: Callable[..., Any], verb: str) -> None:
    with server(None) as target:
        error, seconds = ask(target, QUICK, verb)
    assert type(error) is CloudUnreachable
    assert "does not speak alignedvq.v1: check address and version" in str(error)
    assert seconds < SLACK_S


def test_a_service_with_another_bundle(ask: Callable[..., Any]) -> None:
    info = ServiceInfo("{}", bytes(16), 100, 100, "1")
    refuse = failing(ManifestMismatch("expected a question for another bundle, got this; install"))
    service = FakeService(refuse, info)
    with server(service) as target:
        for verb in ("ask", "check"):
            error, _ = ask(target, QUICK, verb)
            assert type(error) is ManifestMismatch
            assert_clear(str(error))
    assert service.calls == 1
    assert bytes(16).hex() in str(error)


@pytest.mark.parametrize(
    ("config", "first", "named"),
    [
        (EdgeConfig(first_token_seconds=0.5, total_seconds=9), 0, "first piece of the answer"),
        (EdgeConfig(first_token_seconds=9, total_seconds=0.7), 0, "within the deadline"),
        (EdgeConfig(first_token_seconds=0.5, total_seconds=1), 1, "within the deadline"),
    ],
    ids=["first token", "whole answer", "rest of the answer"],
)
def test_a_slow_service(
    ask: Callable[..., Any], config: EdgeConfig, first: int, named: str
) -> None:
    service = FakeService(silent(1.6, first))
    with server(service) as target:
        error, seconds = ask(target, config)
    assert type(error) is DeadlineExceeded
    assert named in str(error)
    assert 0.4 < seconds < 1 + SLACK_S
    assert service.calls == 1  # there is no time for another try


def test_an_unavailable_service_is_asked_again(ask: Callable[..., Any]) -> None:
    service = FakeService(failing(CloudUnreachable("shutting down"), times=2))
    with server(service) as target:
        answer, _ = ask(target)
    assert answer == "a red star "
    assert answer.details.attempts == 3
    assert service.calls == 3


def test_connections_that_are_closed_before_the_first_text(bundle_directory: Path) -> None:
    """More of them than there are attempts, and than a target may fail before it is left alone."""
    closings = 5

    def closing(before: int) -> Iterator[pb.AskResponse]:
        if before < closings:
            for peer, descriptor in accepted_sockets(port).items():
                assert shut_down(descriptor, peer)
            time.sleep(0.1)
        yield from whole_answer()

    service = FakeService(closing)
    config = EdgeConfig(connect_seconds=30, backoff_seconds=0.01, pause_seconds=0.05)
    with server(service) as target, EdgeClient(target, bundle_directory, config) as client:
        port = int(target.rpartition(":")[2])
        answer = client.ask(picture(), GOOD_QUESTION)
    assert answer == "a red star "
    assert answer.details.attempts == service.calls == closings + 1 > config.attempts


def test_retries_end(ask: Callable[..., Any]) -> None:
    service = FakeService(failing(Overloaded("expected room, got none; try again")))
    with server(service) as target:
        error, _ = ask(target)
    assert type(error) is Overloaded
    assert service.calls == QUICK.attempts


@pytest.mark.parametrize(
    ("config", "after"),
    [(QUICK, 1), (EdgeConfig(total_seconds=1, backoff_seconds=5), 0)],
    ids=["half an answer came", "too late"],
)
def test_no_retry(ask: Callable[..., Any], config: EdgeConfig, after: int) -> None:
    service = FakeService(failing(CloudUnreachable("shutting down"), times=1, after=after))
    with server(service) as target:
        error, seconds = ask(target, config)
    assert type(error) is CloudUnreachable
    assert ("broke off" in str(error)) == (after > 0)
    assert seconds < 1 + SLACK_S
    assert service.calls == 1


@pytest.mark.parametrize(
    "kind", [InvalidInput, EngineError, ManifestMismatch, CorruptPayload, ConfigError]
)
def test_what_another_try_cannot_mend_is_not_retried(
    ask: Callable[..., Any], kind: type[AlignedVQError]
) -> None:
    service = FakeService(failing(kind("expected this, got that; do something")))
    with server(service) as target:
        error, _ = ask(target)
    assert type(error) is kind
    assert str(error) == "expected this, got that; do something"
    assert service.calls == 1


def test_a_stream_that_just_stops(ask: Callable[..., Any]) -> None:
    service = FakeService(lambda _: iter([text("half ")]))
    with server(service) as target:
        error, _ = ask(target)
    assert type(error) is EngineError
    assert str(error).startswith("expected a last message with the finish reason")


def test_a_lost_connection_is_found_again(bundle_directory: Path) -> None:
    with EdgeClient("127.0.0.1:1", bundle_directory) as unused:
        digest = unused.encoder.digest
    service = FakeService(lambda _: whole_answer(), ServiceInfo("{}", digest, 100, 100, "1"))

    def listen(port: int) -> tuple[grpc.Server, int]:
        running = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
        rpc.add_SplitInferenceServicer_to_server(service, running)
        bound = running.add_insecure_port(f"127.0.0.1:{port}")
        running.start()
        return running, bound

    running, port = listen(0)
    config = EdgeConfig(connect_seconds=5, backoff_seconds=0.05)
    with EdgeClient(f"127.0.0.1:{port}", bundle_directory, config) as client:
        assert client.ask(picture(), GOOD_QUESTION)
        running.stop(None).wait(5)
        back = threading.Timer(0.7, lambda: started.append(listen(port)[0]))
        started: list[grpc.Server] = []
        back.start()
        try:
            assert client.ask(picture(), GOOD_QUESTION) == "a red star "
            assert client.check().manifest_digest == digest
        finally:
            back.join()
            started[0].stop(None).wait(5)
