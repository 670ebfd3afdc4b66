"""Several targets: which one is asked, when another one is tried, and errors if none answers."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import grpc
import pytest

from aligned_vq.errors import (
    AlignedVQError,
    CloudUnreachable,
    ConfigError,
    DeadlineExceeded,
    EngineError,
    ManifestMismatch,
    Overloaded,
    QuotaExceeded,
    Unauthenticated,
)
from edge_client import EdgeClient, EdgeConfig
from edge_client.connection.targets import split_targets
from protos.alignedvq.v1 import inference_pb2 as pb
from tests.e2e.raw import GOOD_QUESTION, assert_clear, picture
from tests.edge.connection.fake_service import (
    QUICK,
    SLACK_S,
    FakeService,
    failing,
    server,
    silent,
    whole_answer,
)

MISMATCH = "expected a question for another bundle, got this; install the service's"


@contextmanager
def servers(*services: FakeService | None) -> Iterator[list[str]]:
    with ExitStack() as stack:
        yield [stack.enter_context(server(service)) for service in services]


def healthy() -> FakeService:
    return FakeService(lambda _: whole_answer())


def failing_service(error: AlignedVQError, after: int = 0) -> FakeService:
    return FakeService(failing(error, after=after))


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"127.0.0.1:{closed.getsockname()[1]}"


def answer_of(client: EdgeClient, seed: int = 3) -> str:
    return str(client.ask(picture(seed), GOOD_QUESTION))


@pytest.mark.parametrize("targets", ["a:1, b:2,", ["a:1", "b:2"], ("a:1", "b:2")])
def test_targets_are_named_in_a_string_or_a_list(targets: str | list[str]) -> None:
    assert split_targets(targets) == ["a:1", "b:2"]


@pytest.mark.parametrize("targets", ["", " , ", [], "a:1,a:1"])
def test_no_target_or_a_target_twice_is_refused(targets: str | list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        split_targets(targets)
    assert_clear(str(caught.value))


def test_questions_are_distributed_evenly(bundle_directory: Path) -> None:
    services = [healthy() for _ in range(3)]
    with servers(*services) as targets, EdgeClient(targets, bundle_directory) as client:
        for seed in range(9):
            answer_of(client, seed)
    assert [service.calls for service in services] == [3, 3, 3]


def test_a_busy_target_gets_fewer_questions(bundle_directory: Path) -> None:
    gate = threading.Event()

    def held(_: int) -> Iterator[pb.AskResponse]:
        gate.wait(10)
        yield from whole_answer()

    services = [FakeService(held), healthy()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        gate.set()
        for seed in range(10, 12):  # opens both connections
            answer_of(client, seed)
        gate.clear()
        first = threads.submit(answer_of, client)
        while services[0].calls < 2:
            time.sleep(0.01)
        for seed in range(4, 9):
            answer_of(client, seed)
        gate.set()
        assert first.result(10)
    assert [service.calls for service in services] == [2, 6]


def test_follow_up_questions_go_to_the_target_that_has_the_image(bundle_directory: Path) -> None:
    services = [healthy(), healthy()]
    with servers(*services) as targets, EdgeClient(targets, bundle_directory) as client:
        answers = [client.ask(picture(), GOOD_QUESTION) for _ in range(5)]
    assert sorted(service.calls for service in services) == [0, 5]
    assert [answer.details.payload_bytes > 0 for answer in answers] == [True, *[False] * 4]
    assert {answer.details.target for answer in answers} < set(targets)


@pytest.mark.parametrize(
    "error",
    [
        CloudUnreachable("shutting down"),
        Overloaded("expected room, got none; try again"),
        ManifestMismatch(MISMATCH),
        Unauthenticated("expected a token, got none; give one"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_another_target_answers_when_one_fails(
    bundle_directory: Path, error: AlignedVQError
) -> None:
    services = [failing_service(error), healthy()]
    config = replace(QUICK, backoff_seconds=30)  # another target is tried without a pause
    with servers(*services) as targets, EdgeClient(targets, bundle_directory, config) as client:
        answer = client.ask(picture(), GOOD_QUESTION)
    assert answer == "a red star "
    assert answer.details.attempts == 2
    assert answer.details.target == targets[1]
    assert services[0].calls == 1


def test_a_question_over_the_quota_is_not_sent_to_another_target(bundle_directory: Path) -> None:
    services = [failing_service(QuotaExceeded("expected less, got more; wait", 9.0)), healthy()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, QUICK) as client,
        pytest.raises(QuotaExceeded) as caught,
    ):
        answer_of(client)
    assert caught.value.retry_after_seconds == 9.0
    assert services[1].calls == 0


@pytest.mark.parametrize("after", [0, 1])
def test_errors_after_which_no_other_target_is_tried(bundle_directory: Path, after: int) -> None:
    """An error of the engine, or any error after the first piece: a second try would repeat it."""
    error = CloudUnreachable("shutting down") if after else EngineError("it failed; see its log")
    services = [failing_service(error, after=after), healthy()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, QUICK) as client,
        pytest.raises(type(error)) as caught,
    ):
        answer_of(client)
    assert targets[0] in str(caught.value) or not after
    assert services[1].calls == 0


def test_a_server_of_another_protocol_is_tried_once(bundle_directory: Path) -> None:
    other = healthy()
    with servers(None, other) as targets, EdgeClient(targets, bundle_directory, QUICK) as client:
        for seed in range(4):
            answer = client.ask(picture(seed), GOOD_QUESTION)
            assert answer.details.attempts == (2 if seed == 0 else 1)
    assert other.calls == 4
    with servers(None) as targets, EdgeClient(targets, bundle_directory, QUICK) as client:
        with pytest.raises(CloudUnreachable, match="does not speak") as caught:
            answer_of(client)
        assert "asked 2 times" not in str(caught.value)
        with pytest.raises(
            CloudUnreachable, match="does not speak"
        ):  # tried again, as the only target
            answer_of(client)


class Slow(FakeService):
    """Sends nothing until the client cancels the call."""

    def __init__(self) -> None:
        super().__init__(lambda _: whole_answer())
        self.hung_up = threading.Event()

    def Ask(  # noqa: N802
        self, request_iterator: Iterator[pb.AskRequest], context: grpc.ServicerContext
    ) -> Iterator[pb.AskResponse]:
        while context.is_active():
            time.sleep(0.02)
        self.hung_up.set()
        return iter(())


def test_a_late_target_is_cancelled_and_another_is_tried(bundle_directory: Path) -> None:
    slow, other = Slow(), healthy()
    config = replace(QUICK, first_token_seconds=0.5, total_seconds=20)
    with servers(slow, other) as targets, EdgeClient(targets, bundle_directory, config) as client:
        client.compress(
            picture()
        )  # beforehand: on a busy machine, it takes longer than the limit of the answer
        answer = client.ask(picture(), GOOD_QUESTION)
        assert answer == "a red star "
        assert answer.details.attempts == 2
        assert slow.hung_up.wait(5)


def test_the_client_waits_for_a_slow_but_healthy_target(bundle_directory: Path) -> None:
    def slow(_: int) -> Iterator[pb.AskResponse]:
        time.sleep(1.0)
        yield from whole_answer()

    services = [FakeService(slow), healthy()]
    config = EdgeConfig(silence_seconds=0.2)
    with servers(*services) as targets, EdgeClient(targets, bundle_directory, config) as client:
        assert client.ask(picture(), GOOD_QUESTION).details.attempts == 1
    assert [service.calls for service in services] == [1, 0]


def test_when_all_targets_are_late_the_error_names_all(bundle_directory: Path) -> None:
    services = [FakeService(silent(1.6, 0)) for _ in range(2)]
    config = replace(QUICK, first_token_seconds=0.4, attempts=9)
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, config) as client,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        answer_of(client)
    assert [service.calls for service in services] == [1, 1]
    for target in targets:
        assert f"{target} tried once" in str(caught.value)
    assert_clear(str(caught.value))


def test_when_all_targets_are_down_the_error_names_all_and_comes_at_once(
    bundle_directory: Path,
) -> None:
    targets = [closed_port() for _ in range(3)]
    config = EdgeConfig(connect_seconds=1.2, failures=1, pause_seconds=60)
    with EdgeClient(",".join(targets), bundle_directory, config) as client:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(CloudUnreachable) as caught:
                answer_of(client)
            words = str(caught.value)
            assert_clear(words)
            for target in targets:
                assert f"{target} not tried, circuit open (expected a service at {target}" in words
            assert time.monotonic() - started < 1.2 + SLACK_S
        assert "as every circuit breaker is open" in words


def test_a_target_that_is_up_again_is_asked_again(bundle_directory: Path) -> None:
    """With a single target, which is probed by its health check before it is asked again."""
    target = closed_port()
    config = EdgeConfig(connect_seconds=0.3, failures=1, pause_seconds=0.2)
    with EdgeClient(target, bundle_directory, config) as client:
        for _ in range(2):
            with pytest.raises(CloudUnreachable):
                answer_of(client)
        service = healthy()
        with server(service, target):
            deadline = time.monotonic() + 30
            while not service.calls and time.monotonic() < deadline:
                try:
                    answer_of(client)
                except CloudUnreachable:
                    time.sleep(0.1)
    assert service.calls == 1
