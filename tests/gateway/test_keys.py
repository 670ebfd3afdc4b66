"""Callers with a key each: their limits, their names, and keys that are taken back."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client.cli import main
from edge_client.gateway.access.keys import read_keys
from edge_client.gateway.config import KEY_VARIABLE, GatewayConfig
from tests import commands
from tests.e2e.raw import assert_clear
from tests.gateway.asking import Reply, about, call
from tests.gateway.conftest import MODEL

TOKENS = 3500
"""Of an answer that takes longer than any of this."""
PLACES = 4


def digest(key: str) -> str:
    return hashlib.sha256(key.encode()).hexdigest()


def lines(**keys: str) -> str:
    return "".join(f"{name}: {digest(key)}\n" for name, key in keys.items())


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("keys") / "keys.yaml"


@pytest.fixture(scope="module")
def long_winded(talkative: Path, bundle_directory: Path) -> Iterator[CloudProcess]:
    options = (f"--max_answer_tokens={TOKENS}", "--cache_tokens=40000")
    with CloudProcess(bundle_directory, talkative, *options) as process:
        yield process


@pytest.fixture(scope="module")
def keyed(
    long_winded: CloudProcess, bundle_directory: Path, path: Path
) -> Iterator[GatewayProcess]:
    slow = f"slow: {{sha256: {digest('sk-slow')}, per_second: 0.001, burst: 2}}\n"
    path.write_text(lines(one="sk-one", two="sk-two") + slow)
    options = (f"--api_keys={path}", f"--max_requests={PLACES}", f"--model_name={MODEL}")
    with GatewayProcess(long_winded.target, bundle_directory, *options) as process:
        yield process
    assert "Traceback" not in process.log
    assert "sk-" not in process.log


def asked(gateway: GatewayProcess, key: str, **more: Any) -> Reply:
    body = {"model": MODEL, "messages": about(), "max_tokens": 2, **more}
    return call(f"{gateway.url}/v1/chat/completions", body, Authorization=f"Bearer {key}")


def metrics(gateway: GatewayProcess, key: str) -> str:
    return call(f"{gateway.url}/metrics", Authorization=f"Bearer {key}").body.decode()


class Stream:
    """An answer that is read event by event."""

    def __init__(self, gateway: GatewayProcess, key: str) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
        body = {"model": MODEL, "messages": about(), "max_tokens": TOKENS, "stream": True}
        headers = {"Authorization": f"Bearer {key}", "Content-Type": "application/json"}
        self._connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        self._response = self._connection.getresponse()
        assert self._response.status == 200
        self.next()

    def next(self) -> Any:
        """The next event; None at the end."""
        while line := self._response.readline():
            if line.startswith(b"data: {"):
                return json.loads(line.removeprefix(b"data: "))
        return None

    def close(self) -> None:
        self._connection.close()


def soon(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_each_caller_has_a_key_and_a_name(keyed: GatewayProcess) -> None:
    for name in ("one", "two"):
        assert asked(keyed, f"sk-{name}").status == 200
        assert f"chat from {name}: ok" in keyed.log
    for wrong in ("sk-three", digest("sk-one"), "one", ""):
        refused = asked(keyed, wrong)
        assert refused.status == 401
        assert refused.error["code"] == "invalid_api_key"
    counted = 'avq_gateway_caller_requests_total{caller="one",outcome="ok"} 1.0'
    assert counted in metrics(keyed, "sk-two")
    assert call(f"{keyed.url}/healthz").status == 200


def test_nobody_takes_every_place(keyed: GatewayProcess) -> None:
    """Half of them by default: others are served as before."""
    greedy = [Stream(keyed, "sk-one") for _ in range(PLACES // 2)]
    try:
        refused = asked(keyed, "sk-one")
        assert refused.status == 429
        assert refused.error["code"] == "rate_limit_exceeded"
        assert "at most 2 requests of one at once" in refused.error["message"]
        assert int(refused.headers["Retry-After"]) >= 1
        assert asked(keyed, "sk-two").status == 200
    finally:
        for each in greedy:
            each.close()
    soon(lambda: asked(keyed, "sk-one").status == 200)


def test_a_caller_may_have_limits_of_its_own(keyed: GatewayProcess) -> None:
    assert [asked(keyed, "sk-slow").status for _ in range(3)] == [200, 200, 429]
    assert asked(keyed, "sk-two").status == 200


def test_a_key_that_is_taken_back(keyed: GatewayProcess, path: Path) -> None:
    before = path.read_text()
    running, whole = Stream(keyed, "sk-one"), list[Reply]()
    waiting = threading.Thread(
        target=lambda: whole.append(asked(keyed, "sk-one", max_tokens=TOKENS))
    )
    other = Stream(keyed, "sk-two")
    waiting.start()
    try:
        # Else it may find no place beside those that ask whether the key is still good.
        soon(lambda: "avq_gateway_in_flight 3.0" in metrics(keyed, "sk-two"))
        path.write_text(lines(two="sk-two", three="sk-three"))
        soon(lambda: asked(keyed, "sk-one").status == 401)
        last = None
        while (event := running.next()) is not None:
            last = event
        assert last is not None
        assert last["error"]["code"] == "invalid_api_key"
        waiting.join(10)
        assert [reply.status for reply in whole] == [401]
        assert asked(keyed, "sk-three").status == 200
        assert all("choices" in other.next() for _ in range(20))
        path.write_text("one: half a di")
        soon(lambda: "stay in use" in keyed.log)
        assert asked(keyed, "sk-three").status == 200
    finally:
        path.write_text(before)
        other.close()
        running.close()
        waiting.join(10)
    soon(lambda: asked(keyed, "sk-one").status == 200)


def test_a_key_is_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, known = tmp_path / "own", tmp_path / "keys.yaml"
    assert main(["key", "--name=caller-1", f"--out={own}"]) == 0
    known.write_text(capsys.readouterr().out)
    keys = read_keys(GatewayConfig(api_keys=known))
    holder = keys.holder(f"bearer {own.read_text()}")
    assert holder is not None
    assert holder.name == "caller-1"
    assert keys.holder(own.read_text()) is None
    assert main(["key", "--name= ", f"--out={tmp_path / 'other'}"]) == 1
    assert_clear(capsys.readouterr().err.strip())


def test_settings_that_do_not_fit_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = tmp_path / "keys.yaml"
    keys.write_text(lines(one="sk-one"))
    for settings, words in (
        ({"requests_per_second": 1.0}, "expected api_keys with"),
        ({"requests_at_once": 1}, "expected api_keys with"),
        ({"api_keys": keys, "burst": 2}, "requests_per_second with burst"),
        ({"api_keys": keys, "requests_at_once": -1}, "must not be negative"),
    ):
        with pytest.raises(ConfigError, match=words):
            GatewayConfig(**settings)
    assert GatewayConfig(api_keys=keys, max_requests=1).slots_per_caller == 1
    monkeypatch.setenv(KEY_VARIABLE, "sk-all")
    with pytest.raises(ConfigError, match="got both") as caught:
        read_keys(GatewayConfig(api_keys=keys))
    assert_clear(str(caught.value))


def test_a_file_of_keys_that_is_not_there(bundle_directory: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "edge_client.cli", "serve", "--port=0"]
    done = commands.run(
        [*command, f"--bundle={bundle_directory}", f"--api_keys={tmp_path / 'none'}"],
        timeout=100,
    )
    assert done.returncode == 1
    assert "No such file" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_change_that_a_request_saw_first_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edge_client.gateway.access.keys.REFRESH_SECONDS", 0.05)
    monkeypatch.setattr("edge_client.gateway.access.keys.STALE_SECONDS", -1.0)
    file = tmp_path / "keys.yaml"
    file.write_text(lines(one="sk-one", two="sk-two"))
    keys = read_keys(GatewayConfig(api_keys=file))

    async def watched() -> None:
        changed = asyncio.Event()
        watching = asyncio.create_task(keys.watch(changed.set))
        await asyncio.sleep(0)
        file.write_text(lines(two="sk-two", three="sk-three"))
        assert keys.holder("Bearer sk-one") is None
        async with asyncio.timeout(5):
            await changed.wait()
        watching.cancel()

    asyncio.run(watched())
