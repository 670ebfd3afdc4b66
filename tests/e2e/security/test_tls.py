"""Mutual TLS over real sockets: who is served, and errors that say why somebody is not."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import grpc
import pytest

from benchmarks.harness.processes import CloudProcess
from cloud_server.certificates import issuing
from edge_client import CloudUnreachable, EdgeClient, EdgeConfig
from edge_client.connection.credentials import read_credentials
from edge_client.connection.transport import GrpcTransport
from protos.messages import ServiceInfo
from tests.e2e.raw import GOOD_QUESTION, RawClient, assert_clear, picture

CONNECTION_SECONDS = 3.0
HANDSHAKE_S = 1.0


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of two authorities: the service's, and `other-` ones."""
    folder = tmp_path_factory.mktemp("certs")
    issuing.make(folder, None, ("edge-1", "edge-2"))
    issuing.make(folder / "other", None, ("edge-1",))
    authority = issuing.open_authority(folder)
    ended = issuing.issue(authority, "edge-1", datetime.now(UTC) - timedelta(minutes=1))
    (folder / "expired.pem").write_bytes(ended.certificate_pem())
    (folder / "expired-key.pem").write_bytes(ended.key_pem())
    served = folder / "served"
    served.mkdir()
    for name in ("server.pem", "server-key.pem", "ca.pem"):
        shutil.copy(folder / name, served / name)
    return folder


@pytest.fixture(scope="module")
def secure(llava_directory: Path, bundle_directory: Path, folder: Path) -> Iterator[CloudProcess]:
    """A service that requires client certificates; tests replace its files."""
    served = folder / "served"
    options = (
        *(f"--tls_certificate={served / 'server.pem'}", f"--tls_key={served / 'server-key.pem'}"),
        *(f"--tls_clients={served / 'ca.pem'}", f"--max_connection_seconds={CONNECTION_SECONDS}"),
    )
    with CloudProcess(bundle_directory, llava_directory, *options) as process:
        yield process
    assert "Traceback" not in process.log


def config(folder: Path, stem: str | None = "client-edge-1", **settings: Any) -> EdgeConfig:
    if stem is not None:
        settings |= {"certificate": folder / f"{stem}.pem", "key": folder / f"{stem}-key.pem"}
    return EdgeConfig(**{"tls": True, "ca": folder / "ca.pem", **settings})


def info(target: str, settings: EdgeConfig) -> ServiceInfo:
    """The service's information, over a new connection."""
    transport = GrpcTransport(target, read_credentials(settings))
    try:
        transport.connect(HANDSHAKE_S)
        return transport.service_info(5)
    finally:
        transport.close()


def refused(target: str, settings: EdgeConfig) -> str:
    started = time.monotonic()
    with pytest.raises(CloudUnreachable) as caught:
        info(target, settings)
    assert time.monotonic() - started < HANDSHAKE_S + 2
    assert_clear(str(caught.value))
    return str(caught.value)


def test_the_certificate_names_the_client(
    secure: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    for name in ("edge-1", "edge-2"):
        settings = config(folder, f"client-{name}")
        with EdgeClient(secure.target, bundle_directory, settings) as client:
            assert client.check().manifest_digest == client.encoder.digest
            first = client.ask(picture(), GOOD_QUESTION, max_tokens=4)
            assert not first.usage.image_cached  # each has its own images
            assert client.ask(picture(), GOOD_QUESTION, max_tokens=4).usage.image_cached
        assert secure.log.count(f"from {name}\n") == 2


def test_a_name_in_the_certificate_may_differ_from_the_address(
    secure: CloudProcess, folder: Path
) -> None:
    assert info(secure.target, config(folder, server_name="localhost"))
    words = refused(secure.target, config(folder, server_name="elsewhere"))
    assert "certificate is for another name" in words


@pytest.mark.parametrize("stem", [None, "expired", "other/client-edge-1", "server"])
def test_clients_without_a_valid_certificate_are_refused(
    secure: CloudProcess, bundle_directory: Path, folder: Path, stem: str | None
) -> None:
    with EdgeClient(secure.target, bundle_directory, config(folder)) as known:
        assert known.ask(picture(), GOOD_QUESTION, max_tokens=2)
        words = refused(secure.target, config(folder, stem))
        assert "rejects the client's certificate" in words
        assert known.ask(picture(), GOOD_QUESTION, max_tokens=2)


def test_errors_say_what_is_wrong_with_the_other_side(
    secure: CloudProcess, cloud: CloudProcess, folder: Path
) -> None:
    words = refused(secure.target, config(folder, ca=folder / "other" / "ca.pem"))
    assert "from an authority that is not trusted here" in words
    words = refused(secure.target, config(folder, ca=None))
    assert "from an authority that is not trusted here" in words
    words = refused(secure.target, EdgeConfig())
    assert "as by a service that requires TLS" in words
    words = refused(cloud.target, config(folder))
    assert "does not speak TLS" in words


def test_unencrypted_calls_fail(secure: CloudProcess) -> None:
    with RawClient(secure.target) as raw, pytest.raises(grpc.RpcError):
        list(raw.start([], seconds=2))


def test_replaced_files_are_used_by_new_connections(
    secure: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    served, other = folder / "served", folder / "other"
    pid = secure.process.pid
    before, after = config(folder), config(folder, ca=other / "ca.pem")
    assert info(secure.target, before)
    shutil.copy(other / "server.pem", served / "server.pem")
    assert info(secure.target, before)  # not used until its key has been replaced, too
    shutil.copy(other / "server-key.pem", served / "server-key.pem")
    assert info(secure.target, after)
    assert "not trusted" in refused(secure.target, before)
    for name in ("server.pem", "ca.pem"):
        content = (served / name).read_bytes()
        (served / name).write_text("half a fi")
        with EdgeClient(secure.target, bundle_directory, after) as client:
            assert client.ask(picture(), GOOD_QUESTION, max_tokens=2)
        (served / name).write_bytes(content)
    assert secure.log.count("the previous certificates stay in use") == 3

    # A new authority for clients also applies from the next connection on.
    shutil.copy(other / "ca.pem", served / "ca.pem")
    assert "rejects the client's certificate" in refused(secure.target, after)
    theirs = config(folder, "other/client-edge-1", ca=other / "ca.pem")
    assert info(secure.target, theirs)
    for name in ("server.pem", "server-key.pem", "ca.pem"):
        shutil.copy(folder / name, served / name)
    assert info(secure.target, before)
    assert secure.process.pid == pid
    assert secure.process.poll() is None


def test_a_connection_ends_at_its_maximum_age(
    secure: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    channel = read_credentials(config(folder)).channel(secure.target, ())
    ready, ended = threading.Event(), threading.Event()

    def seen(state: grpc.ChannelConnectivity) -> None:
        if state is grpc.ChannelConnectivity.READY:
            ready.set()
        elif ready.is_set():
            ended.set()

    channel.subscribe(seen, try_to_connect=True)
    try:
        with EdgeClient(secure.target, bundle_directory, config(folder)) as client:
            assert client.ask(picture(), GOOD_QUESTION, max_tokens=2)
            assert ready.wait(5)
            assert ended.wait(CONNECTION_SECONDS + 5)
            time.sleep(0.5)
            assert client.ask(picture(), GOOD_QUESTION, max_tokens=2)  # over a new one
    finally:
        channel.unsubscribe(seen)
        channel.close()
