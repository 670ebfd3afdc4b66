"""Tokens and certificates that are taken back from clients of a real process, and their names."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aligned_vq.types import Payload
from benchmarks.harness.processes import CloudProcess
from cloud_server.certificates import issuing
from cloud_server.certificates.revocation import revoke
from edge_client import EdgeConfig
from edge_client.connection.credentials import read_credentials
from protos.alignedvq.v1 import inference_pb2 as pb
from tests.cloud.access.test_gate import BAD_NAMES, certificate
from tests.e2e.raw import RawClient, Refusal, assert_clear, opening, parts

TOKENS = 3500
"""Of an answer that takes longer than any of this."""
LIMIT_S = 10.0
"""Within which whoever was taken back is out."""
OPTIONS = (f"--max_answer_tokens={TOKENS}", "--cache_tokens=20000", "--http_port=0")


def long_answer(raw: RawClient, payload: Payload) -> Any:
    """A running answer, of which the first piece came."""
    call = raw.start([opening(payload.manifest_digest, max_tokens=TOKENS), *parts(payload)], 60)
    next(call)
    return call


def short(raw: RawClient, payload: Payload) -> None:
    """A question that is answered."""
    assert raw.ask([opening(payload.manifest_digest, max_tokens=2), *parts(payload)]).text


def refused_soon(raw: RawClient, payload: Payload) -> str:
    """Why questions on this connection are not answered, from some moment on."""
    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            short(raw, payload)
        except Refusal as error:
            refusal = error
            break
        time.sleep(0.1)
    else:
        raise AssertionError("still answered")
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert refusal.name == "Unauthenticated"
    assert_clear(refusal.words)
    return refusal.words


def end_of(call: Any) -> Refusal:
    """How a running call ended, within the limit."""
    started = time.monotonic()
    with pytest.raises(grpc.RpcError) as caught:
        list(call)
    assert time.monotonic() - started < LIMIT_S
    return Refusal(caught.value)


def goes_on(call: Any) -> None:
    """An answer that nobody ended."""
    for _ in range(20):
        next(call)
    call.cancel()


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def test_a_token_is_taken_back(
    talkative: Path, bundle_directory: Path, tmp_path: Path, payload: Payload
) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"gone: {digest('one')}\nstays: {digest('two')}\n")
    with (
        CloudProcess(bundle_directory, talkative, *OPTIONS, f"--tokens={path}") as cloud,
        RawClient(cloud.target, "one") as gone,
        RawClient(cloud.target, "two") as stays,
        RawClient(cloud.target, "three") as new,
    ):
        running, other = long_answer(gone, payload), long_answer(stays, payload)
        path.write_text(f"stays: {digest('two')}\nnew: {digest('three')}\n")
        assert "expected a token that is registered here" in refused_soon(gone, payload)
        end = end_of(running)
        assert (end.code, end.name) == (grpc.StatusCode.UNAUTHENTICATED, "Unauthenticated")
        short(new, payload)
        path.write_text("half a fi")
        short(stays, payload)
        goes_on(other)
        deadline = time.monotonic() + LIMIT_S
        while "stay in use" not in cloud.log and time.monotonic() < deadline:
            time.sleep(0.1)
        with RawClient(cloud.target, "one") as again, pytest.raises(Refusal):
            short(again, payload)
    assert cloud.log.count("stay in use") == 1
    assert "from gone" in cloud.log
    assert "Traceback" not in cloud.log


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issuing.make(folder, None, ("edge-1", "edge-2", "edge-3"))
    revoke(folder, (), 30)
    return folder


@pytest.fixture(scope="module")
def secure(talkative: Path, bundle_directory: Path, folder: Path) -> Iterator[CloudProcess]:
    options = (
        *(f"--tls_certificate={folder / 'server.pem'}", f"--tls_key={folder / 'server-key.pem'}"),
        *(f"--tls_clients={folder / 'ca.pem'}", f"--tls_refused={folder / 'refused.pem'}"),
    )
    with CloudProcess(bundle_directory, talkative, *OPTIONS, *options) as process:
        yield process
    assert "Traceback" not in process.log


def client(secure: CloudProcess, folder: Path, stem: str) -> RawClient:
    settings = EdgeConfig(
        tls=True,
        ca=folder / "ca.pem",
        certificate=folder / f"{stem}.pem",
        key=folder / f"{stem}-key.pem",
    )
    return RawClient(secure.target, channel=read_credentials(settings).channel(secure.target, ()))


def test_a_certificate_is_taken_back(secure: CloudProcess, folder: Path, payload: Payload) -> None:
    authority, end = issuing.open_authority(folder), datetime.now(UTC) + timedelta(days=1)
    renewed = issuing.issue(authority, "edge-1", end)
    (folder / "renewed.pem").write_bytes(renewed.certificate_pem())
    (folder / "renewed-key.pem").write_bytes(renewed.key_pem())
    with (
        client(secure, folder, "client-edge-1") as gone,
        client(secure, folder, "client-edge-2") as stays,
        client(secure, folder, "renewed") as again,
    ):
        running, other = long_answer(gone, payload), long_answer(stays, payload)
        stub = health_pb2_grpc.HealthStub(gone.channel)
        watching = stub.Watch(health_pb2.HealthCheckRequest(), timeout=60)
        assert next(watching).status == health_pb2.HealthCheckResponse.SERVING
        revoke(folder, ("edge-1",), 30)
        assert "deny-list" in refused_soon(gone, payload)
        for call in (running, watching):
            ended = end_of(call)
            assert ended.code is grpc.StatusCode.UNAUTHENTICATED
            assert_clear(ended.words)
        with pytest.raises(grpc.RpcError, match="deny-list"):
            stub.Check(health_pb2.HealthCheckRequest(), timeout=5)
        short(again, payload)  # the same name with another serial number
        goes_on(other)
        short(stays, payload)
        (folder / "refused.pem").write_text("names: [edge-1]")
        refused_soon(again, payload)
        short(stays, payload)


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
@pytest.mark.parametrize("names", [each for each in BAD_NAMES if each])
def test_a_name_that_is_no_identity(
    secure: CloudProcess, folder: Path, payload: Payload, names: list[str]
) -> None:
    """The handshake succeeds, as the authority signed it; the call does not."""
    authority = issuing.open_authority(folder)
    pem, key = certificate(*names, authority=authority)
    (folder / "bad.pem").write_bytes(pem)
    (folder / "bad-key.pem").write_bytes(key)
    assert x509.load_pem_x509_certificate(pem).issuer == authority.certificate.subject
    with client(secure, folder, "bad") as bad:
        call = bad.start([opening(payload.manifest_digest), *parts(payload)])
        with pytest.raises(grpc.RpcError) as caught:
            next(call)
    refusal = Refusal(caught.value)
    assert refusal.code is grpc.StatusCode.UNAUTHENTICATED
    assert "with one common name" in refusal.words


def test_a_good_name_from_the_same_hand_is_let_in(
    secure: CloudProcess, folder: Path, payload: Payload
) -> None:
    pem, key = certificate("kamera fünf", authority=issuing.open_authority(folder))
    (folder / "good.pem").write_bytes(pem)
    (folder / "good-key.pem").write_bytes(key)
    with client(secure, folder, "good") as good:
        short(good, payload)
        call: Any = good.channel.unary_unary(
            "/alignedvq.v1.SplitInference/GetManifest",
            request_serializer=pb.GetManifestRequest.SerializeToString,
            response_deserializer=pb.GetManifestResponse.FromString,
        )
        assert call(pb.GetManifestRequest(), timeout=5).manifest_json
    assert "from kamera fünf\n" in secure.log
