"""Starts the fork server, and has it fork: a connection and a lifeline for each process."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

from aligned_vq.errors import EngineError
from edge_client.decoding.fork_server import PID, READY, SLOW

START_SECONDS = 60.0
MAX_JOBS = 100
"""Of one process."""
_END_SECONDS = 2.0
_NOTICE_SECONDS = 0.02
"""In which the end of the server shows."""
_TRIES = 5
_BUFFER_BYTES = 2**20
_MODULE = "edge_client.decoding.fork_server"


class Forked:
    """A process that decodes one image after another; `close` kills it, whatever it does.

    Args:
        connection: non-blocking, of its jobs.
        lifeline: descriptor whose closing ends it.
    """

    def __init__(self, connection: socket.socket, lifeline: int) -> None:
        self.connection = connection
        self._lifeline = lifeline
        self.closed = False
        self.slow = False
        self.jobs = 0
        self._pid = 0
        self._used_before = 0.0

    async def begin(self, head: bytes) -> None:
        """Send the head of a job's message; OSError or EOFError where the process is dead."""
        loop = asyncio.get_running_loop()
        if not self.jobs:
            said = b""
            while len(said) < PID.size:
                more = await loop.sock_recv(self.connection, PID.size - len(said))
                if not more:
                    raise EOFError
                said += more
            self._pid = PID.unpack(said)[0]
        self.jobs += 1
        self._used_before = self._cpu_seconds() or 0.0
        await loop.sock_sendall(self.connection, head)

    def used_seconds(self) -> float | None:
        """Of a processor, by its present job; None where the system does not say."""
        used = self._cpu_seconds()
        return None if used is None else used - self._used_before

    def _cpu_seconds(self) -> float | None:
        try:
            with open(f"/proc/{self._pid}/stat", "rb") as file:
                fields = file.read().rpartition(b")")[2].split()
        except OSError:
            return None
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def slow_down(self) -> None:
        """It has taken long: whoever else computes on this machine goes first."""
        if not self.closed:
            self.slow = True
            with contextlib.suppress(OSError):
                os.write(self._lifeline, SLOW)

    def close(self) -> None:
        """Its memory and time are given back within milliseconds; harmless when repeated."""
        if not self.closed:
            self.closed = True
            os.close(self._lifeline)
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)  # wakes whoever waits for its word


class ForkClient:
    """One fork server, started when first needed and again whenever it died.

    For one event loop; asking for a fork blocks it for microseconds.

    Args:
        most_idle: processes that are kept for the next image.
    """

    def __init__(self, most_idle: int) -> None:
        self._most_idle = most_idle
        self._idle: list[Forked] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Wait until it is ready. Others may wait, too: a cancelled wait does not end the start.

        Raises:
            EngineError: it does not start; its standard error is this process's and says why.
        """
        if self._process is None or self._process.poll() is not None:
            await asyncio.shield(asyncio.ensure_future(self._start()))

    async def _start(self) -> None:
        async with self._starting:
            if self._process is not None and self._process.poll() is None:
                return
            await self._discard()
            control, theirs = socket.socketpair()
            control.setblocking(False)
            with theirs:
                self._process = await asyncio.to_thread(_started, theirs.fileno())
            self._control = control
            word = b""
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    word = await asyncio.get_running_loop().sock_recv(control, 1)
            if word != READY:
                await self._discard()
                raise EngineError(
                    "expected a process that decodes images to start, it did not: see standard "
                    "error, and whether this system allows one more process"
                )

    async def take(self, head: bytes) -> Forked:
        """A process that took the head of a job's message.

        Raises:
            EngineError: there is none to be had.
        """
        for _ in range(_TRIES):
            forked = self._idle.pop() if self._idle else await self._forked()
            unused, server = not forked.jobs, self._process
            try:
                await forked.begin(head)
                return forked
            except (EOFError, OSError):  # it was killed meanwhile, or its server was
                self.drop(forked)
                if unused:
                    async with self._starting:
                        if self._process is server:
                            await self._discard()
            except BaseException:
                self.drop(forked)
                raise
        raise EngineError("expected a process that decodes images, each dies: see the system's log")

    async def may_have_died_before(self, forked: Forked) -> bool:
        """May a process that ended have ended for another reason than its present image?"""
        await asyncio.sleep(_NOTICE_SECONDS)
        gone = self._process is None or self._process.poll() is not None
        return gone or forked.jobs > 1

    def keep(self, forked: Forked) -> None:
        """It has answered: keep it for another image, unless it was slow or is old."""
        fresh = forked.jobs < MAX_JOBS and not forked.slow
        if not forked.closed and fresh and len(self._idle) < self._most_idle:
            self._idle.append(forked)
        else:
            self.drop(forked)

    def drop(self, forked: Forked) -> None:
        """Kill it."""
        forked.close()
        forked.connection.close()

    async def _forked(self) -> Forked:
        await self.start()
        connection, theirs = socket.socketpair()
        for own in (connection, theirs):  # a view goes through in one piece
            own.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        ending, lifeline = os.pipe()
        connection.setblocking(False)
        # Where the server died unnoticed, the process will not say its number.
        with theirs, contextlib.suppress(OSError):
            if self._control is not None:
                socket.send_fds(self._control, [b"f"], [theirs.fileno(), ending])
        os.close(ending)
        return Forked(connection, lifeline)

    async def close(self) -> None:
        """End the server and all that it forked."""
        async with self._starting:
            await self._discard()

    async def _discard(self) -> None:
        while self._idle:
            self.drop(self._idle.pop())
        process, control = self._process, self._control
        self._process = self._control = None
        if control is not None:
            control.close()  # it ends by itself when it sees that
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, _END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _started(descriptor: int) -> subprocess.Popen[bytes]:
    """A server in a session of its own: a terminal's signals are not for it."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """This process's, with its module path, and without threads that would make forking unsafe."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
