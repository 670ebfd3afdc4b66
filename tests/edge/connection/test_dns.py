"""Several addresses behind one name: gRPC looks it up, and takes them in turn."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from edge_client import EdgeClient
from tests.e2e.raw import GOOD_QUESTION, picture
from tests.edge.connection.fake_service import QUICK, FakeService, server, whole_answer

ADDRESSES = ("127.0.0.1", "127.0.0.2")
_TYPE_A = 1


def reply(query: bytes) -> bytes:
    """Every A question is answered with all addresses, any other with none (RFC 1035, 4)."""
    end = query.index(b"\0", 12) + 5
    wanted = int.from_bytes(query[end - 4 : end - 2], "big")
    found = [
        b"\xc0\x0c\0\1\0\1\0\0\0\x05\0\4" + socket.inet_aton(address)
        for address in ADDRESSES
        if wanted == _TYPE_A
    ]
    counts = b"\0\1" + len(found).to_bytes(2, "big") + bytes(4)
    return query[:2] + b"\x85\x80" + counts + query[12:end] + b"".join(found)


@contextmanager
def name_server() -> Iterator[int]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as listening:
        listening.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                query, asker = listening.recvfrom(512)
                if len(query) < 12:
                    return
                listening.sendto(reply(query), asker)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as last:
                last.sendto(b"", listening.getsockname())
            thread.join(5)


def test_all_addresses_of_a_name_are_asked(bundle_directory: Path) -> None:
    services = [FakeService(lambda _: whole_answer()) for _ in ADDRESSES]
    with (
        name_server() as names,
        server(services[0], f"{ADDRESSES[0]}:0") as first,
    ):
        port = first.rpartition(":")[2]
        with (
            server(services[1], f"{ADDRESSES[1]}:{port}"),
            EdgeClient(
                f"dns://127.0.0.1:{names}/cloud.test:{port}", bundle_directory, QUICK
            ) as client,
        ):
            for seed in range(6):
                assert client.ask(picture(seed), GOOD_QUESTION) == "a red star "
    assert sum(service.calls for service in services) == 6
    assert all(service.calls >= 2 for service in services)
