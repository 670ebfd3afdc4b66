"""A target that says nothing any more: it is left alone, and all its questions go to another."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc

from edge_client import EdgeClient, EdgeConfig
from tests.e2e.raw import GOOD_QUESTION
from tests.edge.connection.fake_service import (
    Behaviour,
    FakeService,
    Responses,
    server,
    whole_answer,
)

QUESTIONS = 16  # about eight for each of two


class NoHealth(grpc.ServerInterceptor):
    """Counts health checks, and answers none."""

    def __init__(self) -> None:
        self.checks = 0

    def intercept_service(self, continuation: Any, details: Any) -> Any:
        if "Health" not in details.method:
            return continuation(details)
        self.checks += 1
        return grpc.unary_unary_rpc_method_handler(self._wait)

    def _wait(self, _: bytes, context: grpc.ServicerContext) -> bytes:
        while context.is_active():
            time.sleep(0.02)
        return b""


def held(until: threading.Event) -> Behaviour:
    def behave(_: int) -> Responses:
        until.wait(60)
        yield from whole_answer()

    return behave


def test_one_look_at_a_silent_target_frees_all_its_questions(bundle_directory: Path) -> None:
    shared, ended = threading.Event(), threading.Event()
    health, asleep, well = NoHealth(), FakeService(held(ended)), FakeService(held(shared))
    config = EdgeConfig(silence_seconds=2, pause_seconds=60)
    with (
        server(asleep, interceptors=[health]) as first,
        server(well) as second,
        EdgeClient([first, second], bundle_directory, config) as client,
        ThreadPoolExecutor(QUESTIONS) as threads,
    ):
        asked = [threads.submit(client.ask, None, GOOD_QUESTION) for _ in range(QUESTIONS)]
        try:
            deadline = time.monotonic() + 30
            while asleep.calls + well.calls < QUESTIONS:
                assert time.monotonic() < deadline, "they were never all there"
                time.sleep(0.01)
            lost = asleep.calls
            shared.set()
            answers = [each.result(60) for each in asked]
            answers += [client.ask(None, GOOD_QUESTION) for _ in range(4)]
        finally:
            shared.set()
            ended.set()
    assert {answer.details.target for answer in answers} == {second}
    assert sum(answer.details.attempts == 2 for answer in answers) == lost > 1
    assert health.checks == 1
    assert asleep.calls == lost  # nobody else was sent there
