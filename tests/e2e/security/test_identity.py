"""Tokens, quotas and tenants against a real process."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient, EdgeConfig, QuotaExceeded, Unauthenticated
from edge_client.connection.credentials import TOKEN_VARIABLE, read_credentials
from edge_client.connection.transport import GrpcTransport
from protos.alignedvq.v1 import inference_pb2 as pb
from tests.e2e.raw import (
    CHANNEL_OPTIONS,
    GOOD_QUESTION,
    RawClient,
    Refusal,
    assert_clear,
    opening,
    parts,
    picture,
)

NAMES = ("plain", "keen", "broad", "mine", "theirs", "slow", "env")
BURST, PER_SECOND, AT_ONCE = 4, 0.5, 2
ANSWER_SECONDS = 4.0
LONG_ANSWER = 3000


def token(name: str) -> str:
    return f"secret-of-{name}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The service's file of tokens, and each client's."""
    folder = tmp_path_factory.mktemp("tokens")
    lines = [f"{name}: {hashlib.sha256(token(name).encode()).hexdigest()}\n" for name in NAMES]
    (folder / "tokens.yaml").write_text("".join(lines))
    for name in (*NAMES, "stranger"):
        (folder / name).write_text(f"{token(name)}\n")
    return folder


@pytest.fixture(scope="module")
def guarded(talkative: Path, bundle_directory: Path, folder: Path) -> Iterator[CloudProcess]:
    options = (
        *(f"--tokens={folder / 'tokens.yaml'}", f"--questions_per_second={PER_SECOND}"),
        *(f"--burst={BURST}", f"--questions_at_once={AT_ONCE}"),
        *(f"--max_answer_seconds={ANSWER_SECONDS}", f"--max_answer_tokens={LONG_ANSWER}"),
    )
    with CloudProcess(bundle_directory, talkative, *options) as process:
        yield process
    assert "Traceback" not in process.log
    assert "secret-of" not in process.log


def config(folder: Path, name: str, **settings: Any) -> EdgeConfig:
    return EdgeConfig(**{"token_file": folder / name, "attempts": 1, **settings})


def test_a_token_names_the_client(
    guarded: CloudProcess, bundle_directory: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with EdgeClient(guarded.target, bundle_directory, config(folder, "plain")) as client:
        assert client.check().manifest_digest == client.encoder.digest
        assert client.ask(picture(), GOOD_QUESTION, max_tokens=2)
    assert "from plain\n" in guarded.log
    monkeypatch.setenv(TOKEN_VARIABLE, token("env"))
    with EdgeClient(guarded.target, bundle_directory, EdgeConfig(attempts=1)) as client:
        assert client.ask(picture(), GOOD_QUESTION, max_tokens=2)
    assert "from env\n" in guarded.log


def test_without_a_good_token_there_is_one_clear_refusal(
    guarded: CloudProcess, folder: Path, payload: Payload
) -> None:
    for settings, words in (
        (EdgeConfig(), "got none; give the client its token file"),
        (config(folder, "stranger"), "expected a token that is registered here, got another"),
    ):
        transport = GrpcTransport(guarded.target, read_credentials(settings))
        transport.connect(5)
        with pytest.raises(Unauthenticated, match=words) as caught:
            transport.service_info(5)
        assert_clear(str(caught.value))
        transport.close()
    for secret in ("", "stranger"):
        with RawClient(guarded.target, secret) as raw, pytest.raises(Refusal) as refusal:
            raw.ask([opening(payload.manifest_digest), *parts(payload)])
        assert refusal.value.code is grpc.StatusCode.UNAUTHENTICATED
        assert refusal.value.name == "Unauthenticated"
        assert_clear(refusal.value.words)


def test_health_asks_nobody_who_they_are(guarded: CloudProcess) -> None:
    with grpc.insecure_channel(guarded.target, options=CHANNEL_OPTIONS) as channel:
        found = health_pb2_grpc.HealthStub(channel).Check(
            health_pb2.HealthCheckRequest(), timeout=5
        )
    assert found.status == health_pb2.HealthCheckResponse.SERVING


def ask_again_and_again(client: EdgeClient) -> None:
    """More often than any machine is slow enough to have allowed."""
    for _ in range(20):
        client.ask(picture(), GOOD_QUESTION, max_tokens=1)


def test_who_asks_too_often_waits_and_nobody_else_does(
    guarded: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    with EdgeClient(guarded.target, bundle_directory, config(folder, "keen")) as keen:
        for _ in range(BURST):
            assert keen.ask(picture(), GOOD_QUESTION, max_tokens=1).details.attempts == 1
        with pytest.raises(QuotaExceeded, match="of keen a second") as caught:
            ask_again_and_again(keen)
    assert_clear(str(caught.value))
    hint = caught.value.retry_after_seconds
    assert hint is not None
    assert 0 < hint <= 1 / PER_SECOND
    with EdgeClient(guarded.target, bundle_directory, config(folder, "broad")) as other:
        assert other.ask(picture(), GOOD_QUESTION, max_tokens=1)
    patient = config(folder, "keen", attempts=2, backoff_seconds=0.001)
    with EdgeClient(guarded.target, bundle_directory, patient) as keen:
        assert keen.ask(picture(), GOOD_QUESTION, max_tokens=1)  # waits as long as it is told
    hasty = config(folder, "keen", attempts=9, backoff_seconds=0.001, total_seconds=1)
    with EdgeClient(guarded.target, bundle_directory, hasty) as keen:
        started = time.monotonic()
        with pytest.raises(QuotaExceeded):
            keen.ask(picture(), GOOD_QUESTION, max_tokens=1)
        assert time.monotonic() - started < 1  # it does not wait in vain


def test_questions_at_once_are_counted_by_identity(
    guarded: CloudProcess, payload: Payload, digest: bytes
) -> None:
    short, long = (
        [opening(digest, max_tokens=tokens), *parts(payload)] for tokens in (1, LONG_ANSWER)
    )
    with RawClient(guarded.target, token("slow")) as raw:
        calls = [raw.start(long) for _ in range(AT_ONCE)]
        assert all(next(call).chunk.text for call in calls)  # both are being answered
        with pytest.raises(Refusal) as refusal:
            raw.ask(short)
        assert refusal.value.name == "QuotaExceeded"
        assert f"at most {AT_ONCE} questions of slow at once" in refusal.value.words
        with RawClient(guarded.target, token("broad")) as other:
            assert other.ask(short)


def test_however_long_a_client_would_wait_the_service_does_not(
    guarded: CloudProcess, digest: bytes
) -> None:
    ended = threading.Event()

    def half_open() -> Iterator[pb.AskRequest]:
        message = opening(digest)
        message.open.image_digest = bytes(16)
        yield message
        ended.wait(20)

    with RawClient(guarded.target, token("mine")) as raw:
        call = raw.start(half_open())
        try:
            assert next(call).HasField("payload_needed")
            started = time.monotonic()
            with pytest.raises(grpc.RpcError) as caught:
                next(call)
            assert time.monotonic() - started < ANSWER_SECONDS + 3
            assert "may take 4 s here" in Refusal(caught.value).words
        finally:
            ended.set()


def test_an_image_belongs_to_who_sent_it(guarded: CloudProcess, payload: Payload) -> None:
    first = opening(payload.manifest_digest)
    named = opening(payload.manifest_digest)
    named.open.image_digest = payload.digest()
    with (
        RawClient(guarded.target, token("mine")) as mine,
        RawClient(guarded.target, token("theirs")) as theirs,
    ):
        answer = mine.ask([first, *parts(payload)])
        assert mine.ask([named]) == answer
        call = theirs.start([named])
        assert next(call).HasField("payload_needed")  # as for a digest nobody ever sent
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
        refusal = Refusal(caught.value)
        assert refusal.code is grpc.StatusCode.NOT_FOUND
        assert refusal.name == "ImageNotHeld"
        assert_clear(refusal.words)
        responses = list(theirs.start([named, *parts(payload)]))
        assert responses[0].HasField("payload_needed")
        assert not responses[-1].done.usage.image_cached
        assert responses[-1].done.image_digest == payload.digest()
        assert theirs.ask([named]) == answer
