"""Files that operators write, addresses, and the gateway's Host header.

Invariant: a file of tokens or of settings is read or refused with ConfigError. Names of clients are
printable. An address is written as it was read. The guard lets through, of requests without a key,
only those whose Host is this machine's own in a form of RFC 3986.
"""

from __future__ import annotations

import asyncio
import ipaddress
import random
import re
from collections.abc import Iterator, MutableMapping
from pathlib import Path
from typing import Any

from starlette.types import Receive, Scope, Send

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml
from edge_client.gateway.access.guard import Guard
from edge_client.gateway.access.keys import Keys
from protos.access.tokens import parse_tokens
from protos.address import address, host_of, is_loopback
from tests.fuzz.manifest import _folder
from tests.fuzz.target import Mutate, Target
from tests.fuzz.varying.extremes import TEXTS

_HOST = re.compile(
    r"(localhost|127\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}|\[[0:.]*:0*1\]|\[::0\.0\.0\.1\])(:[0-9]{0,5})?",
    re.I,
)


def check(data: bytes) -> None:
    """See the module's invariant."""
    kind, rest = (data[0] % 4, data[1:]) if data else (0, b"")
    (_check_tokens, _check_yaml, _check_address, _check_host)[kind](rest)


def _file(data: bytes) -> Path:
    path = _folder() / "file.yaml"
    path.write_bytes(data)
    return path


def _check_tokens(data: bytes) -> None:
    try:
        tokens = parse_tokens(data, Path("tokens.yaml"))
    except ConfigError:
        return
    for digest, holder in tokens.items():
        assert re.fullmatch("[0-9a-f]{64}", digest)
        assert holder.digest == digest
        assert holder.name.isprintable()
        assert holder.name == holder.name.strip() != ""


def _check_yaml(data: bytes) -> None:
    def parse(loaded: Any) -> list[str]:
        return list(mapping(loaded, "the file", ("a", "b")))

    try:
        keys = read_yaml(_file(data), parse)
    except ConfigError:
        return
    assert set(keys) <= {"a", "b"}


def _check_address(data: bytes) -> None:
    text = data.decode("utf-8", "replace")
    host = host_of(text)
    is_loopback(host)
    plain = re.fullmatch(r"([a-z0-9.-]+|\[[0-9a-f:.]+\]):([0-9]{1,5})", text)
    if plain and (plain[1][0] != "[" or _is_v6(plain[1][1:-1])):
        assert address(host, int(plain[2])) == f"{plain[1]}:{int(plain[2])}"


def _is_v6(text: str) -> bool:
    try:
        return bool(ipaddress.IPv6Address(text))
    except ValueError:
        return False


def _check_host(data: bytes) -> None:
    passed: list[bool] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        passed.append(True)

    async def receive() -> MutableMapping[str, Any]:
        raise NotImplementedError

    async def send(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert message["status"] == 403
            passed.append(False)

    guard = Guard(application, Keys({}), loopback=True)
    scope = {"type": "http", "path": "/v1/models", "headers": [(b"host", data)]}
    asyncio.run(guard(scope, receive, send))
    (through,) = passed
    host = data.decode("latin-1")
    assert not through or _HOST.fullmatch(host), host


def seeds() -> Iterator[bytes]:
    """One good input of each kind and some that are nearly so."""
    yield b"\0alice: " + b"0" * 64 + b"\n'bob': " + b"A" * 64 + b"\n"
    yield b"\0{x: &a [*a], <<: {y: 1}}"
    yield b"\1a: 1\nb: [1, 2, {c: 2001-01-01}]\n"
    yield b"\1!!python/object:os.system {a: 1}"
    for target in (b"localhost:50051", b"[::1]:50051", b"dns:///example.org:443", b"127.0.0.1"):
        yield b"\2" + target
        yield b"\3" + target


def vary(rng: random.Random, data: bytes, mutate: Mutate) -> bytes:
    """Bytes changed, or a word put in."""
    words = (
        *TEXTS,
        "localhost",
        "127.0.0.1",
        "[::1]",
        ":80",
        "dns:///",
        "&a",
        "*a",
        "<<",
        ": ",
        "- ",
    )
    if data and rng.random() < 0.5:
        at = rng.randrange(1, len(data) + 1)
        return (data[:at] + rng.choice(words).encode() + data[at:])[: TARGET.max_bytes]
    return mutate(data, TARGET.max_bytes)


TARGET = Target("files", check, seeds, vary, max_bytes=600)
