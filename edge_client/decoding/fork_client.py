"""Client of the fork server: starts it, and obtains decoding processes from it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
import sys

from aligned_vq.errors import EngineError
from edge_client.decoding.decoding_process import DecodingProcess
from edge_client.decoding.fork_server import READY

START_SECONDS = 60.0
MAX_JOBS = 100
"""Images that one process decodes before it is replaced."""
_SHUTDOWN_SECONDS = 2.0
_EXIT_NOTICE_SECONDS = 0.02
"""Time until `poll` reports that the server has exited."""
_MAX_ATTEMPTS = 5
_BUFFER_BYTES = 2**20
_MODULE = "edge_client.decoding.fork_server"


class ForkClient:
    """One fork server, started when first needed and again whenever it has died.

    For one event loop; requesting a fork blocks it for microseconds.

    Args:
        max_idle: idle processes to keep for further images.
    """

    def __init__(self, max_idle: int) -> None:
        self._max_idle = max_idle
        self._idle: list[DecodingProcess] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._starting = asyncio.Lock()

    async def start(self) -> None:
        """Wait until the server is ready.

        Raises:
            EngineError: it did not start; it shares this process's standard error, which says why.
        """
        if self._process is None or self._process.poll() is not None:
            # Shielded: a cancelled caller must not abort a start that other callers wait for.
            await asyncio.shield(asyncio.ensure_future(self._start()))

    async def _start(self) -> None:
        async with self._starting:
            if self._process is not None and self._process.poll() is None:
                return
            await self._discard_server()
            control, server_end = socket.socketpair()
            control.setblocking(False)
            with server_end:
                self._process = await asyncio.to_thread(_start_server, server_end.fileno())
            self._control = control
            received = b""
            with contextlib.suppress(OSError, TimeoutError):
                async with asyncio.timeout(START_SECONDS):
                    received = await asyncio.get_running_loop().sock_recv(control, 1)
            if received != READY:
                await self._discard_server()
                raise EngineError(
                    "expected the image decoding server to start, it did not: see standard error, "
                    "and whether this system allows another process"
                )

    async def start_job(self, head: bytes) -> DecodingProcess:
        """A process that has received the head of a job's message.

        Raises:
            EngineError: no process could be started.
        """
        for _ in range(_MAX_ATTEMPTS):
            process = self._idle.pop() if self._idle else await self._fork()
            is_new, server = not process.jobs, self._process
            try:
                await process.begin(head)
                return process
            except (EOFError, OSError):  # the process, or its server, was killed meanwhile
                self.kill(process)
                # A new process that is dead means a dead server; another task may have restarted it
                # while this one waited for the lock.
                if is_new:
                    async with self._starting:
                        if self._process is server:
                            await self._discard_server()
            except BaseException:
                self.kill(process)
                raise
        raise EngineError(
            "expected a decoding process, but each one died at its start; see the system's log"
        )

    async def may_have_died_before(self, process: DecodingProcess) -> bool:
        """Whether a dead process may have died for another reason than its current image."""
        await asyncio.sleep(_EXIT_NOTICE_SECONDS)
        is_server_dead = self._process is None or self._process.poll() is not None
        return is_server_dead or process.jobs > 1

    def reuse(self, process: DecodingProcess) -> None:
        """Keep a process for another image after a job, unless it was slow or is old."""
        is_reusable = process.jobs < MAX_JOBS and not process.slow
        if not process.closed and is_reusable and len(self._idle) < self._max_idle:
            self._idle.append(process)
        else:
            self.kill(process)

    def kill(self, process: DecodingProcess) -> None:
        """Kill a process and close its connection."""
        process.close()
        process.connection.close()

    async def _fork(self) -> DecodingProcess:
        await self.start()
        connection, process_end = socket.socketpair()
        for end in (connection, process_end):  # room for a whole view: one wake-up per image
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        lifeline_reader, lifeline = os.pipe()
        connection.setblocking(False)
        # If the server is dead, `DecodingProcess.begin` notices, as no process id arrives.
        with process_end, contextlib.suppress(OSError):
            if self._control is not None:
                socket.send_fds(self._control, [b"f"], [process_end.fileno(), lifeline_reader])
        os.close(lifeline_reader)
        return DecodingProcess(connection, lifeline)

    async def close(self) -> None:
        """End the server and all decoding processes."""
        async with self._starting:
            await self._discard_server()

    async def _discard_server(self) -> None:
        while self._idle:
            self.kill(self._idle.pop())
        process, control = self._process, self._control
        self._process = self._control = None
        if control is not None:
            control.close()  # the server exits when it sees this
        if process is not None:
            try:
                await asyncio.to_thread(process.wait, _SHUTDOWN_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _start_server(descriptor: int) -> subprocess.Popen[bytes]:
    """A server in a new session, so that a terminal's signals do not reach it."""
    # -P: a module in the working directory must not replace one of the server's.
    return subprocess.Popen(
        [sys.executable, "-P", "-m", _MODULE, str(descriptor)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        pass_fds=[descriptor],
        env=_environment(),
        start_new_session=True,
    )


def _environment() -> dict[str, str]:
    """This process's environment with its module path, and without BLAS and OpenMP threads, which
    would make forking unsafe."""
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    return {**os.environ, "PYTHONPATH": path, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
