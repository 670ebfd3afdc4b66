"""Connections of those who say nothing: they keep nobody out."""

from __future__ import annotations

import json
import socket
from contextlib import ExitStack

import pytest

from benchmarks.harness.processes import GatewayProcess
from edge_client.gateway import process
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.process import CONNECTIONS_PER_REQUEST
from tests.gateway.asking import JSON, about, call
from tests.gateway.conftest import MODEL

MOST = CONNECTIONS_PER_REQUEST * GatewayConfig().max_requests
HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"


def connected(gateway: GatewayProcess) -> socket.socket:
    return socket.create_connection(("127.0.0.1", gateway.port), timeout=30)


@pytest.mark.parametrize("said", [b"", HEAD], ids=["silent", "half a head"])
def test_idle_connections_give_way(gateway: GatewayProcess, said: bytes) -> None:
    body = json.dumps({"model": MODEL, "messages": about(), "max_tokens": 2}).encode()
    announced = f"Content-Type: {JSON}\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    with ExitStack() as stack:
        busy = stack.enter_context(connected(gateway))
        busy.sendall(HEAD + announced.encode() + body[:100])
        assert call(f"{gateway.url}/healthz").status == 200  # the gateway has seen that it is busy
        idle = [stack.enter_context(connected(gateway)) for _ in range(MOST + 20)]
        for own in idle[-20:]:
            own.sendall(said)
        assert call(f"{gateway.url}/v1/models").status == 200
        assert idle[0].recv(100) == b""
        busy.sendall(body[100:])
        assert busy.recv(100).startswith(b"HTTP/1.1 200 OK\r\n")


def test_listening_where_the_system_ends_no_stalled_connections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(socket, "TCP_USER_TIMEOUT")
    with process._listening_socket(GatewayConfig(port=0)) as listening:
        assert listening.getsockname()[1] > 0
