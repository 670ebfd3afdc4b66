"""A decoding process, as its client sees it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket

from edge_client.decoding.fork_server import PID, SLOW


class DecodingProcess:
    """A process that decodes one image after another; `close` kills it in any state.

    Args:
        connection: non-blocking socket for its jobs.
        lifeline: write end of the pipe whose closing kills it.
    """

    def __init__(self, connection: socket.socket, lifeline: int) -> None:
        self.connection = connection
        self._lifeline = lifeline
        self.closed = False
        self.slow = False
        self.jobs = 0
        self._pid = 0
        self._cpu_seconds_before = 0.0

    async def begin(self, head: bytes) -> None:
        """Send the head of a job's message; OSError or EOFError if the process is dead."""
        if not self.jobs:
            self._pid = PID.unpack(await self.read(PID.size))[0]
        self.jobs += 1
        self._cpu_seconds_before = self._cpu_seconds() or 0.0
        await self.send(head)

    async def send(self, data: bytes | memoryview) -> None:
        """Send a part of a job's message; OSError if the process is dead."""
        await asyncio.get_running_loop().sock_sendall(self.connection, data)

    async def read(self, length: int) -> bytearray:
        """The next `length` bytes of its answer; EOFError if it ends first."""
        loop, buffer = asyncio.get_running_loop(), bytearray(length)
        rest = memoryview(buffer)
        while rest:
            count = await loop.sock_recv_into(self.connection, rest)
            if not count:
                raise EOFError
            rest = rest[count:]
        return buffer

    def used_seconds(self) -> float | None:
        """CPU time of its current job; None where the system does not report it."""
        cpu_seconds = self._cpu_seconds()
        return None if cpu_seconds is None else cpu_seconds - self._cpu_seconds_before

    def _cpu_seconds(self) -> float | None:
        # After the program's name in parentheses, fields 11 and 12 are user and system time.
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def slow_down(self) -> None:
        """Lower its priority below other processes of this machine."""
        if not self.closed:
            self.slow = True
            with contextlib.suppress(OSError):
                os.write(self._lifeline, SLOW)

    def close(self) -> None:
        """Kill it; its memory is free within milliseconds. Idempotent."""
        if not self.closed:
            self.closed = True
            os.close(self._lifeline)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)  # wakes a task that reads from it
