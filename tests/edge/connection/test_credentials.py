"""What a client shows and what it trusts: files, the token, and what is never sent in the clear."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from cloud_server.certificates import issuing
from edge_client import EdgeConfig
from edge_client.connection.credentials import TOKEN_VARIABLE, Credentials, read_credentials
from edge_client.connection.transport import GrpcTransport
from protos.address import address, host_of, is_loopback
from tests.e2e.raw import assert_clear


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("certs")
    issuing.make(folder, None, ("edge-1",))
    return folder


def pair(folder: Path, certificate: str, key: str) -> dict[str, Any]:
    return {"tls": True, "certificate": folder / certificate, "key": folder / key}


def test_files_are_read_and_secrets_are_not_shown(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("  very-secret\n")
    found = read_credentials(
        EdgeConfig(
            **pair(folder, "client-edge-1.pem", "client-edge-1-key.pem"),
            ca=folder / "ca.pem",
            token_file=tmp_path / "token",
        )
    )
    assert found.ca == (folder / "ca.pem").read_bytes()
    assert found.key == (folder / "client-edge-1-key.pem").read_bytes()
    assert found.metadata() == (("authorization", "Bearer very-secret"),)
    assert "very-secret" not in repr(found)
    assert "PRIVATE" not in repr(found)


def test_the_token_comes_from_the_environment_if_there_is_no_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_credentials(EdgeConfig()) == Credentials()
    monkeypatch.setenv(TOKEN_VARIABLE, "from-outside")
    assert read_credentials(EdgeConfig()).token == "from-outside"
    (tmp_path / "token").write_text("from-file")
    assert read_credentials(EdgeConfig(token_file=tmp_path / "token")).token == "from-file"


@pytest.mark.parametrize("text", ["", " \n", "two words", "two\nlines", "gehöre", "a\x00b"])
def test_what_is_no_token(text: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(text)
    with pytest.raises(ConfigError, match="expected a token, one word") as caught:
        read_credentials(EdgeConfig(token_file=path))
    assert_clear(str(caught.value))


def test_what_cannot_be_read(folder: Path) -> None:
    for settings, words in (
        ({"token_file": folder / "nowhere"}, "nowhere: expected a readable file"),
        ({"tls": True, "ca": folder / "nowhere"}, "ca: expected a PEM file"),
        ({"tls": True, "ca": folder / "ca-key.pem"}, "ca: expected a PEM file"),
        (pair(folder, "client-edge-1.pem", "server-key.pem"), "key values mismatch"),
        (pair(folder, "client-edge-1-key.pem", "client-edge-1.pem"), "made together"),
        (pair(folder, "nowhere", "server-key.pem"), "made together"),
    ):
        with pytest.raises(ConfigError) as caught:
            read_credentials(EdgeConfig(**settings))
        assert words in str(caught.value)
        assert_clear(str(caught.value))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"tls": True, "certificate": Path("c")}, "add key"),
        ({"tls": True, "key": Path("k")}, "add certificate"),
        ({"ca": Path("a")}, "expected tls with ca"),
        ({"server_name": "edge"}, "expected tls with server_name"),
        ({"certificate": Path("c"), "key": Path("k")}, "expected tls with certificate"),
    ],
)
def test_settings_that_do_not_fit_together(settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EdgeConfig(**settings)
    assert words in str(caught.value)


def test_a_token_leaves_this_machine_encrypted_only() -> None:
    secret = Credentials(token="secret")
    for target in ("127.0.0.1:1", "localhost:1", "[::1]:1", "dns:///localhost:1"):
        GrpcTransport(target, secret).close()
    for target in ("192.0.2.1:1", "edge.example:1", "edge.example", "[2001:db8::1]:1", ":1"):
        with pytest.raises(ConfigError, match="expected TLS to send a token") as caught:
            GrpcTransport(target, secret)
        assert_clear(str(caught.value))
        assert "secret" not in str(caught.value)
        GrpcTransport(target).close()
        GrpcTransport(target, Credentials(tls=True, token="secret")).close()


def test_addresses() -> None:
    assert host_of("[::1]:50051") == "::1"
    assert host_of("dns:///edge.example:50051") == host_of("edge.example") == "edge.example"
    assert (address("::1", 5), address("localhost", 5)) == ("[::1]:5", "localhost:5")
    assert all(is_loopback(host) for host in ("127.0.0.5", "::1", "localhost"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "", "edge.example"))


def test_the_transport_needs_no_torch() -> None:
    code = "import sys, edge_client.connection.transport; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
