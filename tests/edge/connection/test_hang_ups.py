"""A question that is cancelled, or whose client is closed, ends at once, also while connecting."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import CloudUnreachable, DeadlineExceeded
from edge_client import EdgeClient, EdgeConfig
from edge_client.encoder import EncodedImage
from tests.e2e.raw import GOOD_QUESTION, assert_clear, picture
from tests.edge.connection.fake_service import FakeService, server, whole_answer

PATIENT = EdgeConfig(connect_seconds=90, failures=1)
ENDED_S = 30.0  # far less than connecting takes

one_or_two = pytest.mark.parametrize("targets", [1, 2])


@contextmanager
def mute(count: int) -> Iterator[list[socket.socket]]:
    """Ports that accept and never speak: connecting to them lasts as long as it may."""
    with ExitStack() as stack:
        ports = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        for port in ports:
            port.settimeout(ENDED_S)
        yield ports


def addresses(ports: list[socket.socket]) -> list[str]:
    return [f"127.0.0.1:{port.getsockname()[1]}" for port in ports]


@one_or_two
def test_cancelled_while_connecting(bundle_directory: Path, targets: int) -> None:
    with (
        mute(targets) as ports,
        EdgeClient(addresses(ports), bundle_directory, PATIENT) as client,
        ThreadPoolExecutor(2) as threads,
    ):
        streams = [client.stream(None, GOOD_QUESTION) for _ in range(3)]
        # One waits for the connection, one for its turn, and one begins when those have ended: it
        # is no failure of the target, which a single one would open the breaker of.
        waiting = [threads.submit(list, stream) for stream in streams]
        with ports[0].accept()[0]:
            for stream, ended in zip(streams, waiting, strict=True):
                stream.cancel()
                with pytest.raises(CloudUnreachable, match="cancelled on this side"):
                    ended.result(ENDED_S)


@one_or_two
def test_closed_while_connecting(bundle_directory: Path, targets: int) -> None:
    with mute(targets) as ports, ThreadPoolExecutor(2) as threads:
        client = EdgeClient(addresses(ports), bundle_directory, PATIENT)
        waiting: list[Future[Any]] = [
            threads.submit(client.check),
            threads.submit(client.ask, None, GOOD_QUESTION),
        ]
        with ports[0].accept()[0]:
            client.close()
            for ended in waiting:
                with pytest.raises(CloudUnreachable, match="a closed one") as caught:
                    ended.result(ENDED_S)
                assert_clear(str(caught.value))


def test_closed_once_connected(bundle_directory: Path) -> None:
    with server(FakeService(lambda _: whole_answer())) as target:
        with EdgeClient(target, bundle_directory) as client:
            assert client.ask(None, GOOD_QUESTION) == "a red star "
        for verb in (client.check, lambda: client.ask(None, GOOD_QUESTION)):
            with pytest.raises(CloudUnreachable, match="a closed one"):
                verb()


def test_late_before_anything_is_sent(
    bundle_directory: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The picture takes longer than the first piece of the answer may."""
    hurried = EdgeConfig(first_token_seconds=0.1, total_seconds=ENDED_S, attempts=1)
    service = FakeService(lambda _: whole_answer())
    with (
        server(service) as target,
        EdgeClient(target, bundle_directory, hurried) as client,
    ):
        encode = client.encoder.encode

        def slowly(*image: Any, **how: Any) -> EncodedImage:
            time.sleep(0.5)
            return encode(*image, **how)

        monkeypatch.setattr(client.encoder, "encode", slowly)
        with pytest.raises(DeadlineExceeded, match="first piece of the answer"):
            client.ask(picture(), GOOD_QUESTION)
    assert not [record for record in caplog.records if record.levelname == "ERROR"]
