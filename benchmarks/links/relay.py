"""A link in user space: a TCP relay that forwards bytes at the times given by `Schedule`.

python -m benchmarks.links.relay 127.0.0.1:50051 --up_kbit 1000 --down_kbit 1000 --delay_ms 10

prints "serving on HOST:PORT" and runs until SIGTERM. In each direction it buffers the bytes in
flight and as much as a sender's socket buffer holds, and stops reading while the buffer is full, so
that TCP's flow control slows down a fast sender and HTTP/2's windows are those of the two ends. All
connections share the rate of each direction.
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
"""Bytes of this much time at the link's rate are forwarded as one piece."""
MIN_PIECE_BYTES, MAX_PIECE_BYTES = 256, 65_536
SENDER_BYTES = 4 * 2**20
"""The size to which Linux lets a sender's socket buffer grow. With less, a client that uploads over
a slow link would face a closed window for seconds, unlike on a real link, and gRPC would take that
for a lost connection."""


@dataclass(frozen=True)
class Lane:
    """One direction: its schedule, bytes forwarded at once, and pieces buffered per connection."""

    schedule: Schedule
    piece_bytes: int
    pieces: int

    @property
    def buffer_bytes(self) -> int:
        """The largest number of bytes that a connection buffers."""
        return self.piece_bytes * self.pieces


def lanes(link: Link, shape_rate: bool = True, seed: int = 0) -> tuple[Lane, Lane]:
    """The lanes up and down; without `shape_rate` they do not limit the bandwidth."""
    both = []
    for number, rate in enumerate((link.up_kbit, link.down_kbit)):
        schedule = Schedule(
            rate if shape_rate else None, link.delay_ms, link.jitter_ms, link.loss, seed + number
        )
        bytes_a_second = 125 * rate  # kbit/s to bytes
        piece = int(min(max(bytes_a_second * PIECE_S, MIN_PIECE_BYTES), MAX_PIECE_BYTES))
        in_flight = bytes_a_second * (link.delay_ms + link.jitter_ms) / 1e3
        both.append(Lane(schedule, piece, int((SENDER_BYTES + in_flight) / piece)))
    return both[0], both[1]


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
        with suppress(OSError, asyncio.CancelledError):  # an end disconnected, or the relay stops
            await self._forward(reader, writer)
        writer.close()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection(
            *self._target, limit=self._down.piece_bytes
        )
        both = (
            asyncio.create_task(_forward_direction(reader, far_writer, self._up)),
            asyncio.create_task(_forward_direction(far_reader, writer, self._down)),
        )
        try:
            await asyncio.gather(*both)
        finally:  # an error in one direction ends the other
            for task in both:
                task.cancel()
            far_writer.close()


async def _forward_direction(
    source: asyncio.StreamReader, sink: asyncio.StreamWriter, lane: Lane
) -> None:
    """Forward bytes and end of stream from source to sink; reading and writing are concurrent."""
    # The bounded queue is the link: a full one stops reading from the sender.
    in_flight: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(lane.pieces)
    sink.transport.set_write_buffer_limits(high=lane.piece_bytes)
    now = asyncio.get_running_loop().time

    async def read_source() -> None:
        with suppress(OSError):  # after a reset, deliver what arrived before it
            while data := await source.read(lane.piece_bytes):
                await in_flight.put((lane.schedule.arrival_s(now(), len(data)), data))
        await in_flight.put((lane.schedule.arrival_s(now(), 0), b""))

    reading = asyncio.create_task(read_source())
    try:
        while True:
            due_s, data = await in_flight.get()
            if (wait_s := due_s - now()) > 0:
                await asyncio.sleep(wait_s)
            if not data:
                sink.write_eof()
                return
            sink.write(data)
            await sink.drain()
    finally:
        reading.cancel()


async def serve(target: str, link: Link, shape_rate: bool, seed: int) -> None:
    """Relay until SIGTERM; prints the address on stdout."""
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
    parser.add_argument("--any_rate", action="store_true", help="do not limit the bandwidth")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    link = Link(
        *("relay", options.up_kbit, options.down_kbit),
        *(options.delay_ms, options.jitter_ms, options.loss),
    )
    asyncio.run(serve(options.target, link, not options.any_rate, options.seed))
    return 0


if __name__ == "__main__":
    sys.exit(main())
