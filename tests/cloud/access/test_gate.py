"""The identity of callers: from a certificate, from a token, or anonymous."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from aligned_vq.errors import ConfigError, Overloaded, QuotaExceeded, Unauthenticated
from cloud_server.access.gate import Gate
from cloud_server.certificates import issuing
from cloud_server.cli import main
from cloud_server.config import CloudConfig
from protos.access.tokens import tokens_file
from tests.e2e.raw import assert_clear

CONFIG = CloudConfig(Path("bundle"), "model")


TLS = replace(CONFIG, tls_certificate=Path("c"), tls_key=Path("k"), tls_clients=Path("authority"))
AUTHORITY = issuing.new_authority()


class Call:
    """The parts of gRPC's context that a gate reads; `names` are a certificate's common names."""

    def __init__(self, names: Sequence[str] | None = None, *metadata: tuple[str, str]) -> None:
        self._auth: dict[str, list[bytes]] = {}
        if names is not None:
            # gRPC's property, which must not be trusted: names come from the PEM.
            self._auth["x509_common_name"] = [b"edge-1"]
            self._auth["x509_pem_cert"] = [certificate(*names)[0]]
        self._metadata = metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"


def certificate(
    *names: str, authority: issuing.CertificateAndKey = AUTHORITY
) -> tuple[bytes, bytes]:
    """A client's certificate and its key in PEM; any common names are possible."""
    attributes = [x509.NameAttribute(NameOID.COMMON_NAME, name, _validate=False) for name in names]
    key = ec.generate_private_key(ec.SECP256R1())
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(authority.certificate.subject, x509.Name(attributes))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .sign(authority.key, hashes.SHA256())
    )
    pair = issuing.CertificateAndKey(made, key)
    return pair.certificate_pem(), pair.key_pem()


def digest(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


def bearer(token: str) -> Any:
    return Call(None, ("user-agent", "x"), ("authorization", f"Bearer {token}"))


@pytest.fixture
def tokens(tmp_path: Path) -> Path:
    path = tmp_path / "tokens.yaml"
    path.write_text(f"edge-1: {digest('one')}\n007: {digest('seven').upper()}\n")
    return path


def test_without_certificates_and_tokens_everyone_is_anonymous() -> None:
    gate = Gate(CONFIG)
    for call in (Call(), Call(["edge-1"]), bearer("one")):
        assert gate.identity(call) == "anonymous"  # type: ignore[arg-type]


def test_a_token_determines_the_identity(tokens: Path) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens))
    assert gate.identity(bearer("one")) == "edge-1"
    assert gate.identity(bearer("seven")) == "007"
    seven: Any = Call(None, ("authorization", "bearer  seven "))
    assert gate.identity(seven) == "007"


@pytest.mark.parametrize(
    "call",
    [
        Call(),
        Call(["edge-1"]),  # without `tls_clients`, certificates do not count
        bearer("two"),
        bearer(""),
        bearer("o\udce9e"),
        bearer(digest("one")),
        Call(None, ("authorization", "Basic one")),
        Call(None, ("authorization", "one")),
        Call(None, ("authorization", "Bearer one"), ("authorization", "Bearer one")),
        Call(None, ("x-authorization", "Bearer one")),
    ],
)
def test_calls_without_a_valid_token_are_refused(tokens: Path, call: Any) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens))
    visit = gate.open()
    with pytest.raises(Unauthenticated) as caught:
        visit.admit(call)
    assert_clear(str(caught.value))
    assert gate.in_flight == 0
    visit.release()


BAD_NAMES: Any = (
    *([], ["a", "b"], ["edge-1", "edge-1"], [""], [" "], ["  "], ["edge-1 "], [" edge-1"]),
    *(["cam\0x"], ["\0"], ["two\nlines"], ["tab\t"], ["x" * 201], ["zero\u200bwidth"]),
    *(["left\u202eright"], ["no-break\xa0space"], ["e\u0301t\u00e9"], ["\x7f"]),
)
"""Common names of certificates that are refused as identities; the last but one is not in NFC."""


@pytest.mark.filterwarnings("ignore:Attribute's length must be")
@pytest.mark.parametrize("names", [None, *BAD_NAMES])
def test_a_certificate_must_name_its_client(names: list[str] | None) -> None:
    good: Any = Call(["kamera fünf"])
    assert Gate(TLS).identity(good) == "kamera fünf"
    bad: Any = Call(names, ("authorization", "Bearer one"))
    with pytest.raises(Unauthenticated, match="common name") as caught:
        Gate(TLS).identity(bad)
    assert_clear(str(caught.value))


def test_invalid_certificates_are_refused() -> None:
    bad: Any = Call(["edge-1"])
    for pem in (b"", b"no PEM", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"):
        bad._auth["x509_pem_cert"] = [pem]
        with pytest.raises(Unauthenticated, match="common name"):
            Gate(TLS).identity(bad)


def test_places_in_flight_are_limited_and_released(tokens: Path) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens, max_in_flight=2, questions_at_once=1))
    first, second, third = gate.open(), gate.open(), gate.open()
    assert first.admit(bearer("one")) == "edge-1"
    with pytest.raises(QuotaExceeded):
        second.admit(bearer("one"))
    assert second.admit(bearer("seven")) == "007"
    with pytest.raises(Overloaded, match="at most 2 questions in flight"):
        third.admit(bearer("seven"))
    third.release()
    assert gate.in_flight == 2
    first.release()
    again = gate.open()
    assert again.admit(bearer("one")) == "edge-1"
    again.release()
    second.release()
    assert gate.in_flight == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mapping of names"),
        ("- a\n- b\n", "mapping of names"),
        ("just text", "mapping of names"),
        ("a: [", "invalid YAML"),
        (f'a: {"0" * 64}"b": {"1" * 64}\n', "invalid YAML in line 1"),
        ("edge-1: secret", "token of 'edge-1' as 64 hex digits"),
        (f"edge-1: {'0' * 63}", "64 hex digits"),
        (f"edge-1: {'g' * 64}", "64 hex digits"),
        (f"edge-1:\n  - {'0' * 64}", "64 hex digits"),
        (f"a: {'0' * 64}\nb: {'0' * 64}\n", "the same for 'b' and 'a'"),
        (f"a: {'0' * 64}\n'a': {'1' * 64}\n", "each name once, got 'a' twice"),
        (f'"a\\nb": {"0" * 64}', "printable"),
        (f'" ": {"0" * 64}', "printable"),
        (f'"a ": {"0" * 64}', "printable"),
        (f'"a\\0": {"0" * 64}', "printable"),
        (f'"e\\u0301": {"0" * 64}', "printable"),
        ("a: {per_second: 1}", "64 hex digits"),
        (f"a: {{sha256: {'0' * 64}, per_second: often}}", "limits of 'a' among per_second"),
        (f"a: {{sha256: {'0' * 64}, per_second: -1}}", "limits of 'a'"),
        (f"a: {{sha256: {'0' * 64}, burst: 1.5}}", "limits of 'a'"),
        (f"a: {{sha256: {'0' * 64}, per_second: nan}}", "limits of 'a'"),
        (f"a: {{sha256: {'0' * 64}, at_onec: 1}}", "got 'at_onec' otherwise"),
    ],
)
def test_invalid_token_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tokens\.yaml") as caught:
        tokens_file(path)
    assert words in str(caught.value)
    assert_clear(str(caught.value))
    assert "secret" not in str(caught.value)


def test_a_token_may_have_separate_limits(tmp_path: Path) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(
        f"a: {{sha256: {digest('one')}, at_once: 2, per_second: 1.5}}\nb: {digest('two')}\n"
    )
    gate = Gate(replace(CONFIG, tokens=path, questions_at_once=1))
    for token, places in (("one", 2), ("two", 1)):
        visits = [gate.open() for _ in range(places + 1)]
        for visit in visits[:-1]:
            visit.admit(bearer(token))
        with pytest.raises(QuotaExceeded, match=f"at most {places} questions"):
            visits[-1].admit(bearer(token))


@pytest.mark.parametrize("name", ["camera-1", "007", "yes", "Küche: links", "a" * 200])
def test_a_generated_token_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    token_file, tokens_path = tmp_path / "token", tmp_path / "tokens.yaml"
    assert main(["token", f"--name={name}", f"--out={token_file}"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    token = token_file.read_text()
    assert token not in line
    assert token_file.stat().st_mode & 0o777 == 0o600
    tokens_path.write_text(f"{line}other: {digest('other')}\n")
    gate = Gate(replace(CONFIG, tokens=tokens_path))
    assert gate.open().admit(bearer(token)) == name
    assert main(["token", f"--name={name}", f"--out={token_file}"]) == 1
    assert token_file.read_text() == token
    assert "expected to write a new file" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["a\nb", " ", "a ", "", "e\u0301"])
def test_no_token_is_generated_for_an_invalid_name(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["token", f"--name={name}", f"--out={tmp_path / 'token'}"]) == 1
    assert "printable" in capsys.readouterr().err
    assert not (tmp_path / "token").exists()


def test_a_missing_token_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        Gate(replace(CONFIG, tokens=tmp_path / "nowhere"))
    assert_clear(str(caught.value))
