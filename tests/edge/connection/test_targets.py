"""Several targets: who is asked, who instead of whom, and what is told when nobody answers."""

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


def good() -> FakeService:
    return FakeService(lambda _: whole_answer())


def bad(error: AlignedVQError, after: int = 0) -> FakeService:
    return FakeService(failing(error, after=after))


def closed_port() -> str:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        return f"127.0.0.1:{closed.getsockname()[1]}"


def asked(client: EdgeClient, seed: int = 3) -> str:
    return str(client.ask(picture(seed), GOOD_QUESTION))


@pytest.mark.parametrize("given", ["a:1, b:2,", ["a:1", "b:2"], ("a:1", "b:2")])
def test_targets_are_named_in_a_string_or_a_list(given: str | list[str]) -> None:
    assert split_targets(given) == ["a:1", "b:2"]


@pytest.mark.parametrize("given", ["", " , ", [], "a:1,a:1"])
def test_no_target_and_the_same_twice(given: str | list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        split_targets(given)
    assert_clear(str(caught.value))


def test_questions_are_shared(bundle_directory: Path) -> None:
    services = [good() for _ in range(3)]
    with servers(*services) as targets, EdgeClient(targets, bundle_directory) as client:
        for seed in range(9):
            asked(client, seed)
    assert [service.calls for service in services] == [3, 3, 3]


def test_who_is_busy_is_spared(bundle_directory: Path) -> None:
    gate = threading.Event()

    def held(_: int) -> Iterator[pb.AskResponse]:
        gate.wait(10)
        yield from whole_answer()

    services = [FakeService(held), good()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory) as client,
        ThreadPoolExecutor(1) as threads,
    ):
        gate.set()
        for seed in range(10, 12):  # connects both
            asked(client, seed)
        gate.clear()
        first = threads.submit(asked, client)
        while services[0].calls < 2:
            time.sleep(0.01)
        for seed in range(4, 9):
            asked(client, seed)
        gate.set()
        assert first.result(10)
    assert [service.calls for service in services] == [2, 6]


def test_follow_up_questions_stay_with_their_picture(bundle_directory: Path) -> None:
    services = [good(), good()]
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
def test_what_one_fails_another_answers(bundle_directory: Path, error: AlignedVQError) -> None:
    services = [bad(error), good()]
    config = replace(QUICK, backoff_seconds=30)  # another target is not waited for
    with servers(*services) as targets, EdgeClient(targets, bundle_directory, config) as client:
        answer = client.ask(picture(), GOOD_QUESTION)
    assert answer == "a red star "
    assert answer.details.attempts == 2
    assert answer.details.target == targets[1]
    assert services[0].calls == 1


def test_a_quota_is_the_same_everywhere(bundle_directory: Path) -> None:
    services = [bad(QuotaExceeded("expected less, got more; wait", 9.0)), good()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, QUICK) as client,
        pytest.raises(QuotaExceeded) as caught,
    ):
        asked(client)
    assert caught.value.retry_after_seconds == 9.0
    assert services[1].calls == 0


@pytest.mark.parametrize("after", [0, 1])
def test_what_no_other_target_can_mend(bundle_directory: Path, after: int) -> None:
    """An error of the engine, or any once a piece of the answer came: it cannot come twice."""
    error = CloudUnreachable("shutting down") if after else EngineError("it failed; see its log")
    services = [bad(error, after=after), good()]
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, QUICK) as client,
        pytest.raises(type(error)) as caught,
    ):
        asked(client)
    assert targets[0] in str(caught.value) or not after
    assert services[1].calls == 0


def test_a_service_of_something_else_is_asked_once(bundle_directory: Path) -> None:
    other = good()
    with servers(None, other) as targets, EdgeClient(targets, bundle_directory, QUICK) as client:
        for seed in range(4):
            answer = client.ask(picture(seed), GOOD_QUESTION)
            assert answer.details.attempts == (2 if seed == 0 else 1)
    assert other.calls == 4
    with servers(None) as targets, EdgeClient(targets, bundle_directory, QUICK) as client:
        with pytest.raises(CloudUnreachable, match="does not speak") as caught:
            asked(client)
        assert "asked 2 times" not in str(caught.value)
        with pytest.raises(CloudUnreachable, match="does not speak"):  # it is all there is
            asked(client)


class Slow(FakeService):
    """Says nothing until the client hangs up."""

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


def test_who_is_late_is_hung_up_and_another_asked(bundle_directory: Path) -> None:
    slow, other = Slow(), good()
    config = replace(QUICK, first_token_seconds=0.5, total_seconds=20)
    with servers(slow, other) as targets, EdgeClient(targets, bundle_directory, config) as client:
        client.compress(picture())  # on a busy machine, it takes longer than the answer may
        answer = client.ask(picture(), GOOD_QUESTION)
        assert answer == "a red star "
        assert answer.details.attempts == 2
        assert slow.hung_up.wait(5)


def test_who_is_slow_but_well_is_waited_for(bundle_directory: Path) -> None:
    def slow(_: int) -> Iterator[pb.AskResponse]:
        time.sleep(1.0)
        yield from whole_answer()

    services = [FakeService(slow), good()]
    config = EdgeConfig(silence_seconds=0.2)
    with servers(*services) as targets, EdgeClient(targets, bundle_directory, config) as client:
        assert client.ask(picture(), GOOD_QUESTION).details.attempts == 1
    assert [service.calls for service in services] == [1, 0]


def test_all_late(bundle_directory: Path) -> None:
    services = [FakeService(silent(1.6, 0)) for _ in range(2)]
    config = replace(QUICK, first_token_seconds=0.4, attempts=9)
    with (
        servers(*services) as targets,
        EdgeClient(targets, bundle_directory, config) as client,
        pytest.raises(DeadlineExceeded) as caught,
    ):
        asked(client)
    assert [service.calls for service in services] == [1, 1]
    for target in targets:
        assert f"{target} tried once" in str(caught.value)
    assert_clear(str(caught.value))


def test_all_down_names_all_and_then_fails_at_once(bundle_directory: Path) -> None:
    targets = [closed_port() for _ in range(3)]
    config = EdgeConfig(connect_seconds=1.2, failures=1, pause_seconds=60)
    with EdgeClient(",".join(targets), bundle_directory, config) as client:
        for _ in range(2):
            started = time.monotonic()
            with pytest.raises(CloudUnreachable) as caught:
                asked(client)
            words = str(caught.value)
            assert_clear(words)
            for target in targets:
                assert f"{target} not tried, circuit open (expected a service at {target}" in words
            assert time.monotonic() - started < 1.2 + SLACK_S
        assert "as every circuit breaker is open" in words


def test_who_comes_back_is_asked_again(bundle_directory: Path) -> None:
    """One target only, so the second look is the service's own word that it is well."""
    target = closed_port()
    config = EdgeConfig(connect_seconds=0.3, failures=1, pause_seconds=0.2)
    with EdgeClient(target, bundle_directory, config) as client:
        for _ in range(2):
            with pytest.raises(CloudUnreachable):
                asked(client)
        service = good()
        with server(service, target):
            deadline = time.monotonic() + 30
            while not service.calls and time.monotonic() < deadline:
                try:
                    asked(client)
                except CloudUnreachable:
                    time.sleep(0.1)
    assert service.calls == 1
