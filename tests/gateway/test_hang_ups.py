"""Clients that leave, or stop reading, and gateways that stop: the cloud is told at once."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from openai import OpenAI

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from benchmarks.harness.scraped import samples
from tests.gateway.asking import JSON, about, call
from tests.gateway.conftest import MODEL

LONG = 3900
WAIT_SECONDS = 40


class Pair(NamedTuple):
    cloud: CloudProcess
    gateway: GatewayProcess


@pytest.fixture(scope="module")
def pair(talkative: Path, bundle_directory: Path) -> Iterator[Pair]:
    """Answers take seconds, and a client that does not read is given up after one."""
    with (
        CloudProcess(
            bundle_directory, talkative, "--max_answer_tokens=4000", "--http_port=0"
        ) as cloud,
        GatewayProcess(
            cloud.target, bundle_directory, f"--model_name={MODEL}", "--stall_seconds=1"
        ) as gateway,
    ):
        yield Pair(cloud, gateway)


def cancelled(pair: Pair) -> float:
    """Questions that the cloud was told to give up."""
    return samples(pair.cloud.http).get(("avq_questions_total", "cancelled"), 0)


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while not holds():
        assert time.monotonic() < deadline, "it never came to be"
        time.sleep(0.05)


def request(stream: bool) -> bytes:
    fields = {"model": MODEL, "messages": about(), "max_tokens": LONG, "stream": stream}
    body = json.dumps(fields).encode()
    lines = (
        "POST /v1/chat/completions HTTP/1.1",
        "Host: localhost",
        f"Content-Type: {JSON}",
        f"Content-Length: {len(body)}",
    )
    return "\r\n".join([*lines, "", ""]).encode() + body


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_leaves_cancels_its_question(pair: Pair, stream: bool) -> None:
    before = cancelled(pair)
    with socket.create_connection(("127.0.0.1", pair.gateway.port), timeout=20) as opened:
        opened.sendall(request(stream))
        wait_until(lambda: samples(pair.cloud.http)["avq_in_flight", ""] == 1)
        if stream:
            assert opened.recv(100)
    wait_until(lambda: cancelled(pair) == before + 1)
    wait_until(lambda: samples(pair.gateway.url)["avq_gateway_in_flight", ""] == 0)


def test_a_client_that_stops_reading_is_given_up(pair: Pair) -> None:
    before = cancelled(pair)
    with socket.socket() as opened:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        opened.connect(("127.0.0.1", pair.gateway.port))
        opened.sendall(request(True))
        assert opened.recv(100)
        wait_until(lambda: cancelled(pair) == before + 1)
    wait_until(lambda: samples(pair.gateway.url)["avq_gateway_in_flight", ""] == 0)


def test_openais_client_may_close_a_stream_early(pair: Pair) -> None:
    before = cancelled(pair)
    with OpenAI(base_url=f"{pair.gateway.url}/v1", api_key="any", max_retries=0) as client:
        stream = client.chat.completions.create(
            model=MODEL, messages=about(), max_tokens=LONG, stream=True
        )
        next(iter(stream))
        stream.close()
    wait_until(lambda: cancelled(pair) == before + 1)


def test_a_gateway_that_is_stopped_lets_answers_finish(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    with GatewayProcess(cloud.target, bundle_directory, f"--model_name={MODEL}") as gateway:
        with OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client:
            stream = client.chat.completions.create(
                model=MODEL, messages=about(), max_tokens=80, stream=True
            )
            chunks = iter(stream)
            next(chunks)
            gateway.process.send_signal(signal.SIGTERM)
            *_, last = chunks
        assert last.choices[0].finish_reason
        assert gateway.process.wait(timeout=30) == 0


def test_a_gateway_does_not_wait_for_ever(pair: Pair, bundle_directory: Path) -> None:
    before = cancelled(pair)
    options = (f"--model_name={MODEL}", "--drain_seconds=0")
    with (
        GatewayProcess(pair.cloud.target, bundle_directory, *options) as gateway,
        socket.create_connection(("127.0.0.1", gateway.port), timeout=20) as opened,
    ):
        opened.sendall(request(True))
        assert opened.recv(100)
        gateway.process.send_signal(signal.SIGTERM)
        assert gateway.process.wait(timeout=30) == 0
    wait_until(lambda: cancelled(pair) == before + 1)


def test_both_go_on(pair: Pair) -> None:
    body = {"model": MODEL, "messages": about(), "max_tokens": 3}
    assert call(f"{pair.gateway.url}/v1/chat/completions", body).status == 200
