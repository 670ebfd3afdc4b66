"""What no client of OpenAI's would send: one error in the one shape, and the gateway goes on."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests.gateway.asking import JSON, Reply, about, call
from tests.gateway.conftest import MODEL

CHAT = "/v1/chat/completions"
DEEP = 100_000
NOT_JSON: dict[str, bytes] = {
    "nothing": b"",
    "words": b"what colour is it?",
    "half": b'{"model": "tiny',
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "half a surrogate pair": b'{"model": "\\ud800"}',
    "deep lists": b"[" * DEEP + b"]" * DEEP,
    "deep objects": b'{"a":' * DEEP + b"1" + b"}" * DEEP,
    "deep in a field": b'{"model":"m","messages":' + b"[" * DEEP + b"]" * DEEP + b"}",
    "millions of values": b'{"model":"m","messages":[{}' + b",{}" * 2_000_000 + b"]}",
    "NaN": b'{"model": NaN}',
    "a number too large": b'{"model": "m", "messages": [], "seed": ' + b"9" * 5000 + b"}",
}
NOT_A_REQUEST: tuple[Any, ...] = (None, [], 5, "text", {}, {"model": MODEL}, {"messages": []})
JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=9),
    lambda own: st.lists(own, max_size=3) | st.dictionaries(st.text(max_size=9), own, max_size=3),
    max_leaves=8,
)
FIELDS = ("model", "messages", "stream", "stop", "seed", "temperature", "stream_options", "tools")


@pytest.fixture(scope="module", autouse=True)
def _still_serves(gateway: GatewayProcess) -> Iterator[None]:
    """Whatever this file did to the gateway, it answers afterwards."""
    yield
    reply = call(gateway.url + CHAT, {"model": MODEL, "messages": about(), "max_tokens": 2})
    assert reply.status == 200
    assert gateway.process.poll() is None


@pytest.mark.parametrize("case", NOT_JSON)
def test_what_is_no_json(gateway: GatewayProcess, case: str) -> None:
    for path in (CHAT, "/v1/index_map"):
        reply = call(gateway.url + path, NOT_JSON[case])
        assert reply.status == 400
        assert reply.error["type"] == "invalid_request_error"


@pytest.mark.parametrize("body", NOT_A_REQUEST, ids=str)
def test_json_that_is_no_request(gateway: GatewayProcess, body: Any) -> None:
    for path in (CHAT, "/v1/index_map"):
        assert call(gateway.url + path, json.dumps(body).encode()).status == 400


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(st.sampled_from(FIELDS) | st.text(max_size=9), JSON_VALUES, max_size=5))
def test_any_json_at_all(gateway: GatewayProcess, fields: dict[str, Any]) -> None:
    whole = {"model": MODEL, "messages": [{"role": "user", "content": 7}], **fields}
    reply = call(gateway.url + CHAT, whole)
    assert reply.status in (400, 404)
    assert "expected" in reply.error["message"]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        ("text/plain", 415),
        ("application/x-www-form-urlencoded", 415),
        ("multipart/form-data; boundary=x", 415),
        ("application/json; charset=latin-1", 415),
        ("", 415),
        ("Application/JSON; Charset=UTF-8", 200),
    ],
)
def test_content_types(gateway: GatewayProcess, kind: str, status: int) -> None:
    body = {"model": MODEL, "messages": about(), "max_tokens": 2}
    assert call(gateway.url + CHAT, body, Content_Type=kind).status == status


def test_an_encoded_body(gateway: GatewayProcess) -> None:
    reply = call(gateway.url + CHAT, b"x", Content_Encoding="gzip")
    assert reply.status == 415
    assert "Content-Encoding" in reply.error["message"]


@pytest.mark.parametrize(
    ("path", "method", "status"),
    [("/v1/completions", "POST", 404), (CHAT, "GET", 405), ("/nowhere", "GET", 404)],
)
def test_other_paths_and_methods(
    gateway: GatewayProcess, path: str, method: str, status: int
) -> None:
    body = b"{}" if method == "POST" else None
    reply = call(gateway.url + path, body, method=method)
    assert reply.status == status
    assert reply.error["code"] == "unknown_url"


@pytest.fixture(scope="module")
def narrow(cloud: CloudProcess, bundle_directory: Path) -> Iterator[GatewayProcess]:
    """With limits that a test can reach."""
    limits = ("--max_body_mib=1", "--max_requests=2", "--body_seconds=2")
    with GatewayProcess(cloud.target, bundle_directory, f"--model_name={MODEL}", *limits) as own:
        yield own


def sent_raw(gateway: GatewayProcess, *pieces: bytes) -> Reply:
    """What comes back once the gateway hangs up."""
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=30) as opened:
        for piece in pieces:
            try:
                opened.sendall(piece)
            except OSError:
                break  # it has answered already
        found = b""
        try:
            while chunk := opened.recv(65_536):
                found += chunk
        except ConnectionResetError:
            pass
    head, _, body = found.partition(b"\r\n\r\n")
    return Reply(int(head.split()[1]), head, body)


def head(*more: str) -> bytes:
    lines = (f"POST {CHAT} HTTP/1.1", "Host: localhost", f"Content-Type: {JSON}", *more)
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode()


def test_a_body_that_is_too_large_is_not_read(narrow: GatewayProcess) -> None:
    announced = sent_raw(narrow, head(f"Content-Length: {2**40}"))
    assert announced.status == 413
    assert announced.error["code"] == "request_too_large"
    chunk = b"10000\r\n" + b" " * 65_536 + b"\r\n"
    unannounced = sent_raw(narrow, head("Transfer-Encoding: chunked"), *[chunk] * 40)
    assert unannounced.status == 413


def test_a_body_that_does_not_come_is_not_waited_for(narrow: GatewayProcess) -> None:
    reply = sent_raw(narrow, head("Content-Length: 1000"), b'{"model":')
    assert reply.status == 408
    assert call(f"{narrow.url}/v1/models").status == 200


def test_a_broken_off_request_frees_its_place(narrow: GatewayProcess) -> None:
    def cancelled() -> float:
        told = text_string_to_metric_families(call(f"{narrow.url}/metrics").body.decode())
        own = (sample for family in told for sample in family.samples)
        wanted = ("avq_gateway_requests_total", {"route": "chat", "outcome": "cancelled"})
        return sum(sample.value for sample in own if (sample.name, sample.labels) == wanted)

    before = cancelled()
    deadline = time.monotonic() + 20
    for number in range(6):  # three times its places
        with socket.create_connection(("127.0.0.1", narrow.port), timeout=10) as opened:
            opened.sendall(head("Content-Length: 1000") + b'{"model":')
        # Left waiting, it would end in another way: as one that did not come in time.
        while cancelled() != before + number + 1:
            assert time.monotonic() < deadline, "a request that was broken off goes on"
            time.sleep(0.05)
    body = {"model": MODEL, "messages": about(), "max_tokens": 2}
    assert call(narrow.url + CHAT, body).status == 200


def test_one_request_too_many_is_told_when_to_come_back(narrow: GatewayProcess) -> None:
    body = {"model": MODEL, "messages": about(), "max_tokens": 2}
    waiting = [socket.create_connection(("127.0.0.1", narrow.port), timeout=10) for _ in range(2)]
    for opened in waiting:
        opened.sendall(head("Content-Length: 1000") + b"{")
    deadline = time.monotonic() + 10
    while (reply := call(narrow.url + CHAT, body)).status == 200 and time.monotonic() < deadline:
        time.sleep(0.02)
    for opened in waiting:
        opened.close()
    assert reply.status == 503
    assert reply.error["code"] == "overloaded"
    assert reply.headers["Retry-After"] == "1"


def test_many_bad_requests_at_once(gateway: GatewayProcess) -> None:
    bodies = [*NOT_JSON.values()] * 3
    with ThreadPoolExecutor(8) as pool:
        replies = [*pool.map(lambda body: call(gateway.url + CHAT, body), bodies)]
    assert {reply.status for reply in replies} <= {400, 503}
