"""A link in user space: a TCP relay that forwards bytes when `Schedule` says so.

python -m benchmarks.links.relay 127.0.0.1:50051 --up_kbit 1000 --down_kbit 1000 --delay_ms 10

says "serving on HOST:PORT" and runs until SIGTERM. Of each direction it holds what is under way and
a sender's socket buffer, and reads no more until some of that has gone, so whoever sends too fast
is held up by TCP's own flow control, and HTTP/2's windows are those of the two ends. Connections
share each direction's rate.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from contextlib import suppress
from dataclasses import dataclass

from benchmarks.links.profiles import Link
from benchmarks.links.schedule import Schedule

PIECE_S = 0.002
"""Bytes of this time are forwarded as one piece."""
LEAST_PIECE_BYTES, MOST_PIECE_BYTES = 256, 65_536
SENDER_BYTES = 4 * 2**20
"""As Linux lets a sender's socket grow to. With less, a client that uploads over a slow link meets
a closed window for seconds, which no link shows it, and gRPC takes that for a lost connection."""


@dataclass(frozen=True)
class Lane:
    """One direction: its schedule, and how many bytes are forwarded at once and held in all."""

    schedule: Schedule
    piece_bytes: int
    pieces: int

    @property
    def held_bytes(self) -> int:
        """At most, of every connection."""
        return self.piece_bytes * self.pieces


def lanes(link: Link, shape_rate: bool = True, seed: int = 0) -> tuple[Lane, Lane]:
    """Up and down. Without `shape_rate` something else limits the link to its rates."""
    found = []
    for number, rate in enumerate((link.up_kbit, link.down_kbit)):
        schedule = Schedule(
            rate if shape_rate else None, link.delay_ms, link.jitter_ms, link.loss, seed + number
        )
        bytes_a_second = 125 * rate
        piece = int(min(max(bytes_a_second * PIECE_S, LEAST_PIECE_BYTES), MOST_PIECE_BYTES))
        under_way = bytes_a_second * (link.delay_ms + link.jitter_ms) / 1e3
        found.append(Lane(schedule, piece, int((SENDER_BYTES + under_way) / piece)))
    return found[0], found[1]


class Relay:
    """Forwards connections to `target`, HOST:PORT, over a link; a context manager."""

    def __init__(self, target: str, up: Lane, down: Lane) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self._up, self._down = up, down
        self._connections: set[asyncio.Task[None]] = set()
        self.port = 0

    async def __aenter__(self) -> Relay:
        self._server = await asyncio.start_server(
            self._connected, "127.0.0.1", 0, limit=self._up.piece_bytes
        )
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)
        with suppress(OSError, asyncio.CancelledError):  # an end hung up, or the relay stops
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(
            *self._target, limit=self._down.piece_bytes
        )
        both = (
            asyncio.create_task(_carry(reader, far_writer, self._up)),
            asyncio.create_task(_carry(far_reader, writer, self._down)),
        )
        try:
            await asyncio.gather(*both)
        finally:
            for task in both:
                task.cancel()
            far_writer.close()


async def _carry(source: asyncio.StreamReader, sink: asyncio.StreamWriter, lane: Lane) -> None:
    """Everything from source to sink, the end of it too; both halves run at once."""
    line: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(lane.pieces)
    sink.transport.set_write_buffer_limits(high=lane.piece_bytes)
    now = asyncio.get_running_loop().time

    async def enter() -> None:
        with suppress(OSError):  # it hung up: what came before is delivered all the same
            while data := await source.read(lane.piece_bytes):
                await line.put((lane.schedule.arrival_s(now(), len(data)), data))
        await line.put((lane.schedule.arrival_s(now(), 0), b""))

    entering = asyncio.create_task(enter())
    try:
        while True:
            due_s, data = await line.get()
            if (wait_s := due_s - now()) > 0:
                await asyncio.sleep(wait_s)
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()
    finally:
        entering.cancel()


async def serve(target: str, link: Link, shape_rate: bool, seed: int) -> None:
    """Relay until SIGTERM; says where on stdout."""
    stopped = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopped.set)
    async with Relay(target, *lanes(link, shape_rate, seed)) as relay:
        print(f"serving on 127.0.0.1:{relay.port}", flush=True)
        await stopped.wait()


def main() -> int:
    """Entry point; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", help="HOST:PORT to forward to")
    for name in ("up_kbit", "down_kbit"):
        parser.add_argument(f"--{name}", type=float, required=True)
    for name in ("delay_ms", "jitter_ms", "loss"):
        parser.add_argument(f"--{name}", type=float, default=0.0)
    parser.add_argument("--any_rate", action="store_true", help="something else limits the rate")
    parser.add_argument("--seed", type=int, default=0)
    own = parser.parse_args()
    link = Link("relay", own.up_kbit, own.down_kbit, own.delay_ms, own.jitter_ms, own.loss)
    asyncio.run(serve(own.target, link, not own.any_rate, own.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
