"""Credentials that are taken back while serving: calls and connections end, others go on."""

from __future__ import annotations

import asyncio
import hashlib
import logging
import time
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError, Unauthenticated
from cloud_server.access import identity
from cloud_server.access.identity import Identities
from cloud_server.access.peers import Caller, Peers
from cloud_server.certificates import issuing
from cloud_server.certificates.tls import TlsFiles
from cloud_server.config import CloudConfig
from tests.e2e.raw import assert_clear

CONFIG = CloudConfig(Path("bundle"), "model")


class Call:
    """What is asked of gRPC's context."""

    def __init__(self, port: int, pem: bytes = b"", token: str = "") -> None:
        self._port, self._pem, self._token = port, pem, token

    def peer(self) -> str:
        return f"ipv4:127.0.0.1:{self._port}"

    def auth_context(self) -> dict[str, list[bytes]]:
        return {"x509_pem_cert": [self._pem]}

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return (("authorization", f"Bearer {self._token}"),)


class Ended:
    """A running call, and why it ended."""

    def __init__(self) -> None:
        self.why: list[Unauthenticated] = []

    def __call__(self, why: Unauthenticated) -> None:
        self.why.append(why)


def write_tokens(path: Path, **tokens: str) -> None:
    digests = {name: hashlib.sha256(own.encode()).hexdigest() for name, own in tokens.items()}
    path.write_text("".join(f"{name}: {digest}\n" for name, digest in digests.items()))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "CLOSE_DELAY_SECONDS", 0.0)


def look(identities: Identities) -> list[str]:
    """What one look at the files hangs up."""
    hung_up: list[str] = []

    async def once() -> None:
        identities.close_connections = hung_up.extend
        identities.reload()
        identities.end_refused_calls()
        await asyncio.sleep(0.01)

    asyncio.run(once())
    return hung_up


def running(identities: Identities, call: Any) -> Ended:
    ended = Ended()
    identities.add_call(ended, identities.identify(call), ended)
    return ended


def test_a_token_that_was_removed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "tokens.yaml"
    write_tokens(path, a="one", b="two")
    identities = Identities(replace(CONFIG, tokens=path))
    first: Any = Call(1, token="one")
    second: Any = Call(2, token="two")
    ended, other = running(identities, first), running(identities, second)
    assert not look(identities)
    write_tokens(path, b="two", c="three")
    assert look(identities) == ["ipv4:127.0.0.1:1"]
    assert [str(why) for why in ended.why] == [
        "expected a token that is registered here, got another; ask the service's operator for one"
    ]
    assert not other.why
    with pytest.raises(Unauthenticated):
        identities.identify(first)
    assert identities.identify(second).name == "b"
    added: Any = Call(3, token="three")
    assert identities.identify(added).name == "c"

    for spoil in ("", "b: [", "- b"):
        path.write_text(spoil)
        for _ in range(3):
            assert not look(identities)
    path.unlink()
    assert not look(identities)
    assert identities.identify(second).name == "b"
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert len(warnings) == 4  # one for each state of the file, however often it was looked at


def test_a_name_with_a_new_token_loses_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    write_tokens(path, a="one")
    identities = Identities(replace(CONFIG, tokens=path))
    old: Any = Call(1, token="one")
    ended = running(identities, old)
    write_tokens(path, a="two")
    assert look(identities) == ["ipv4:127.0.0.1:1"]
    assert len(ended.why) == 1


def test_a_proxys_connection_stays_for_its_other_callers(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    write_tokens(path, a="one", b="two")
    identities = Identities(replace(CONFIG, tokens=path))
    a: Any = Call(1, token="one")
    b: Any = Call(1, token="two")
    ended, other = running(identities, a), running(identities, b)
    write_tokens(path, b="two")
    assert not look(identities)
    assert len(ended.why) == 1
    assert not other.why


def test_without_a_watch_a_call_looks_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "tokens.yaml"
    write_tokens(path, a="one")
    identities = Identities(replace(CONFIG, tokens=path))
    write_tokens(path, b="two")
    monkeypatch.setattr(identity, "STALE_SECONDS", 0.0)
    added: Any = Call(2, token="two")
    assert identities.identify(added).name == "b"


class Secured:
    """A service's files, and clients of its authority."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        issuing.make(folder, None)
        self.refused = folder / "refused.yaml"
        self.refused.write_text("names: []")
        self.authority = issuing.open_authority(folder)
        self.config = replace(
            CONFIG,
            tls_certificate=folder / "server.pem",
            tls_key=folder / "server-key.pem",
            tls_clients=folder / "ca.pem",
            tls_refused=self.refused,
        )
        self.tls = TlsFiles(
            folder / "server.pem", folder / "server-key.pem", self.config.tls_clients
        )
        self.identities = Identities(self.config, self.tls)

    def client(self, name: str, hours: float = 1.0) -> bytes:
        end = datetime.now(UTC) + timedelta(hours=hours)
        return issuing.issue(self.authority, name, end).certificate_pem()


@pytest.fixture
def secured(tmp_path: Path) -> Secured:
    return Secured(tmp_path / "certs")


def test_a_certificate_that_is_refused_by_name(secured: Secured) -> None:
    identities = secured.identities
    refused: Any = Call(1, secured.client("edge-1"))
    renewed: Any = Call(2, secured.client("edge-1"))
    good: Any = Call(3, secured.client("edge-2"))
    calls = [running(identities, each) for each in (refused, renewed, good)]
    secured.refused.write_text("names: [edge-1]")
    assert look(identities) == ["ipv4:127.0.0.1:1", "ipv4:127.0.0.1:2"]
    assert [len(call.why) for call in calls] == [1, 1, 0]
    assert "got one that is on the deny-list" in str(calls[0].why[0])
    assert_clear(str(calls[0].why[0]))
    secured.refused.write_text("")  # cut short: lets nobody in again
    assert not look(identities)

    async def asked_again() -> list[str]:
        hung_up: list[str] = []
        identities.close_connections = hung_up.extend
        with pytest.raises(Unauthenticated, match="deny-list"):
            identities.identify(refused)
        assert identities.identify(good).name == "edge-2"
        await asyncio.sleep(0.01)
        return hung_up

    assert asyncio.run(asked_again()) == ["ipv4:127.0.0.1:1"]
    secured.refused.write_text("names: []")
    look(identities)
    assert identities.identify(refused).name == "edge-1"


def test_a_certificate_that_ends_while_it_is_used(
    secured: Secured, monkeypatch: pytest.MonkeyPatch
) -> None:
    soon: Any = Call(1, secured.client("edge-1", hours=1))
    later: Any = Call(2, secured.client("edge-2", hours=3))
    calls = [running(secured.identities, each) for each in (soon, later)]
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 2 * 3600)
    assert look(secured.identities) == ["ipv4:127.0.0.1:1"]
    assert "got an expired one" in str(calls[0].why[0])
    assert not calls[1].why


def test_an_authority_that_is_no_longer_trusted(secured: Secured) -> None:
    old: Any = Call(1, secured.client("edge-1"))
    ended = running(secured.identities, old)
    another = issuing.new_authority()
    path = secured.folder / "ca.pem"
    before = path.read_bytes()
    path.write_bytes(before + another.certificate_pem())
    assert not look(secured.identities)  # both are trusted while they are changed
    path.write_bytes(another.certificate_pem())
    assert look(secured.identities) == ["ipv4:127.0.0.1:1"]
    assert "authority that is trusted here" in str(ended.why[0])
    end = datetime.now(UTC) + timedelta(hours=1)
    new: Any = Call(2, issuing.issue(another, "edge-1", end).certificate_pem())
    assert secured.identities.identify(new).name == "edge-1"
    path.write_bytes(before)
    look(secured.identities)
    assert secured.identities.identify(old).name == "edge-1"


def test_a_list_that_cannot_be_used_at_the_start(secured: Secured) -> None:
    secured.refused.unlink()
    with pytest.raises(ConfigError, match="No such file") as caught:
        Identities(secured.config, secured.tls)
    assert_clear(str(caught.value))
    with pytest.raises(ConfigError, match="expected tls_clients together with tls_refused"):
        replace(CONFIG, tls_refused=secured.refused)


def test_the_watch_goes_on_after_a_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(identity, "RELOAD_SECONDS", 0.01)
    path = tmp_path / "tokens.yaml"
    write_tokens(path, a="one")
    identities = Identities(replace(CONFIG, tokens=path))
    known: Any = Call(1, token="one")
    sweep, failures = identities.end_refused_calls, [RuntimeError("a bug")]

    def flawed() -> None:
        if failures:
            raise failures.pop()
        sweep()

    async def watched() -> None:
        monkeypatch.setattr(identities, "end_refused_calls", flawed)
        ended = asyncio.Event()
        identities.add_call(ended, identities.identify(known), lambda why: ended.set())
        watching = asyncio.create_task(identities.watch())
        write_tokens(path, b="two")
        async with asyncio.timeout(10):
            await ended.wait()
        watching.cancel()

    asyncio.run(watched())
    assert "reloading the credentials failed" in caplog.text


def noted(peers: Peers, ports: Iterable[int], caller: Caller, now: float) -> None:
    for port in ports:
        peers.record(f"ipv4:127.0.0.1:{port}", caller, now)


def test_memory_of_connections_is_bounded() -> None:
    peers = Peers(lifetime_seconds=100, max_peers=50)
    a, b = Caller("a", "key-a"), Caller("b", "key-b")
    noted(peers, range(500), a, 1)
    assert len(peers) == 50
    noted(peers, [1000], b, 102)  # those of `a` cannot be open any more
    assert len(peers) == 1
    noted(peers, [1, 2], a, 103)
    noted(peers, [2], b, 104)
    assert peers.remove_refused(lambda caller: caller.key == "key-b", 105) == [
        "ipv4:127.0.0.1:1000"
    ]
    noted(peers, [2], b, 204)
    assert peers.remove_refused(lambda caller: caller.key == "key-b", 205) == ["ipv4:127.0.0.1:2"]
