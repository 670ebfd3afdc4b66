"""Edge and cloud at two places with a link between: in namespaces where they are permitted, on
127.0.0.1 where not."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from benchmarks.links.network import Network
from benchmarks.links.profiles import Link
from tests import commands

SERVER = """
import hashlib, socket, sys
listening = socket.create_server((sys.argv[1], 0))
print(listening.getsockname()[1], flush=True)
while True:
    connection, _ = listening.accept()
    found = hashlib.sha256()
    while data := connection.recv(65536):
        found.update(data)
    connection.sendall(found.hexdigest().encode())
    connection.close()
"""
CLIENT = """
import hashlib, socket, sys, time
host, _, port = sys.argv[1].rpartition(":")
data = bytes(range(250)) * (int(sys.argv[2]) // 250)
connection = socket.create_connection((host, int(port)))
began = time.monotonic()
connection.sendall(data)
connection.shutdown(socket.SHUT_WR)
answer = b""
while more := connection.recv(100):
    answer += more
print(answer.decode() == hashlib.sha256(data).hexdigest(), time.monotonic() - began)
"""


@contextmanager
def server(network: Network) -> Iterator[str]:
    """Tells the digest of what it was sent, on the cloud's side."""
    command = [*network.cloud_command, sys.executable, "-c", SERVER, network.cloud_host]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield f"{network.cloud_host}:{process.stdout.readline().strip()}"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("namespaces", [True, False])
def test_bytes_arrive_whole_and_no_faster_than_the_link(namespaces: bool) -> None:
    slow = Link("slow", 2000, 2000, delay_ms=60, jitter_ms=5, loss=0.001)
    fast = Link("fast", 200_000, 200_000, delay_ms=1)
    with Network(namespaces) as network, server(network) as target:
        for link, size in ((slow, 150_000), (fast, 5_000_000), (slow, 250)):
            with network.link(link, target) as (reached,):
                command = [*network.edge_command, sys.executable, "-c", CLIENT, reached, str(size)]
                done = commands.run(command, timeout=60, check=True)
            whole, seconds = done.stdout.split()
            assert whole == "True"
            assert float(seconds) >= 8 * size / (1e3 * link.up_kbit) + 2 * link.delay_ms / 1e3
        if not namespaces:
            assert network.why_not == "not asked for"
