"""Who calls: by certificate, by token, or nobody in particular."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError, Overloaded, QuotaExceeded, Unauthenticated
from cloud_server.cli import main
from cloud_server.config import CloudConfig
from cloud_server.gate import Gate
from cloud_server.tokens import read_tokens
from tests.e2e.raw import assert_clear

CONFIG = CloudConfig(Path("bundle"), "model")


class Call:
    """What a gate asks of gRPC's context."""

    def __init__(self, name: bytes | None = None, *metadata: tuple[str, str]) -> None:
        self._auth = {} if name is None else {"x509_common_name": [name]}
        self._metadata = metadata

    def auth_context(self) -> dict[str, list[bytes]]:
        return self._auth

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata


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
    for call in (Call(), Call(b"edge-1"), bearer("one")):
        assert gate.identity(call) == "anonymous"  # type: ignore[arg-type]


def test_a_token_is_a_name(tokens: Path) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens))
    assert gate.identity(bearer("one")) == "edge-1"
    assert gate.identity(bearer("seven")) == "007"
    seven: Any = Call(None, ("authorization", "bearer  seven "))
    assert gate.identity(seven) == "007"


@pytest.mark.parametrize(
    "call",
    [
        Call(),
        Call(b"edge-1"),  # no authority is asked about certificates here
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
def test_without_a_good_token_nobody_comes_in(tokens: Path, call: Any) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens))
    visit = gate.arrive()
    with pytest.raises(Unauthenticated) as caught:
        visit.admit(call)
    assert_clear(str(caught.value))
    assert gate.in_flight == 0
    visit.leave()


@pytest.mark.parametrize("name", [None, b"", b"\xff", b"two\nlines", b"x" * 201])
def test_a_certificate_must_name_its_client(name: bytes | None) -> None:
    config = replace(
        CONFIG, tls_certificate=Path("c"), tls_key=Path("k"), tls_clients=Path("authority")
    )
    good: Any = Call("kamera-fünf".encode())
    assert Gate(config).identity(good) == "kamera-fünf"
    bad: Any = Call(name, ("authorization", "Bearer one"))
    with pytest.raises(Unauthenticated, match="common name") as caught:
        Gate(config).identity(bad)
    assert_clear(str(caught.value))


def test_a_place_is_taken_and_given_back(tokens: Path) -> None:
    gate = Gate(replace(CONFIG, tokens=tokens, max_in_flight=2, questions_at_once=1))
    first, second, third = gate.arrive(), gate.arrive(), gate.arrive()
    assert first.admit(bearer("one")) == "edge-1"
    with pytest.raises(QuotaExceeded):
        second.admit(bearer("one"))
    assert second.admit(bearer("seven")) == "007"
    with pytest.raises(Overloaded, match="at most 2 questions in flight"):
        third.admit(bearer("seven"))
    third.leave()
    assert gate.in_flight == 2
    first.leave()
    again = gate.arrive()
    assert again.admit(bearer("one")) == "edge-1"
    again.leave()
    second.leave()
    assert gate.in_flight == 0


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "mapping of names"),
        ("- a\n- b\n", "mapping of names"),
        ("just text", "mapping of names"),
        ("a: [", "something else"),
        (f'a: {"0" * 64}"b": {"1" * 64}\n', "something else in line 1"),
        ("edge-1: secret", "token of 'edge-1' as 64 hex digits"),
        (f"edge-1: {'0' * 63}", "64 hex digits"),
        (f"edge-1: {'g' * 64}", "64 hex digits"),
        (f"edge-1:\n  - {'0' * 64}", "64 hex digits"),
        (f"a: {'0' * 64}\nb: {'0' * 64}\n", "the same for 'b' and 'a'"),
        (f"a: {'0' * 64}\n'a': {'1' * 64}\n", "each name once, got 'a' twice"),
        (f'"a\\nb": {"0" * 64}', "printable"),
    ],
)
def test_a_file_of_tokens_that_cannot_be_used(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "tokens.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"tokens\.yaml") as caught:
        read_tokens(path)
    assert words in str(caught.value)
    assert_clear(str(caught.value))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("name", ["camera-1", "007", "yes", "Küche: links", "a" * 200])
def test_a_token_that_was_made_is_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    own, known = tmp_path / "own", tmp_path / "tokens.yaml"
    assert main(["token", f"--name={name}", f"--out={own}"]) == 0
    line = capsys.readouterr().out
    assert line.count("\n") == 1
    token = own.read_text()
    assert token not in line
    assert own.stat().st_mode & 0o777 == 0o600
    known.write_text(f"{line}other: {digest('other')}\n")
    gate = Gate(replace(CONFIG, tokens=known))
    assert gate.arrive().admit(bearer(token)) == name
    assert main(["token", f"--name={name}", f"--out={own}"]) == 1
    assert own.read_text() == token
    assert "expected to write a new file" in capsys.readouterr().err


def test_a_token_for_nobody(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["token", "--name=a\nb", f"--out={tmp_path / 'own'}"]) == 1
    assert "printable" in capsys.readouterr().err
    assert not (tmp_path / "own").exists()


def test_no_file_of_tokens(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="No such file") as caught:
        Gate(replace(CONFIG, tokens=tmp_path / "nowhere"))
    assert_clear(str(caught.value))
