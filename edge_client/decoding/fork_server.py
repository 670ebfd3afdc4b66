"""The program behind the processes that decode: it forks them, and kills them.

It imports what decoding needs once, then waits; a fork takes about a millisecond and shares that
memory. It runs no thread, so that forking is safe, which it is not in a process with gRPC's. A fork
is asked for with two descriptors: the socket of its jobs, one after another, and the end of a pipe,
its lifeline, that says by being closed that the process is to be killed. The kernel closes the
other ends when the client process dies, however that happens, so nothing outlives it.

    python -m edge_client.decoding.fork_server DESCRIPTOR
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import resource
import selectors
import signal
import socket
import struct
import sys
import warnings

from aligned_vq.errors import InvalidInput
from aligned_vq.images.formats import FORMATS, readable
from edge_client.decoding.job import (
    ASK,
    GRANT,
    LARGE_PIXELS,
    SPARE_BYTES,
    NotBase64,
    TooCostly,
    answer,
    decode,
    encoded_file,
    message,
    read_message,
)
from protos.memory import keep_freed

READY = b"r"
PID = struct.Struct(">I")
"""What a process says first: its number, which is its own until its lifeline is closed."""
SLOW = b"s"
"""Through a lifeline: the process takes long, and is to give way to all others."""
NICE = 5
CPU_SECONDS = 10
"""Of one image. Far more than any client waits: for a process that nobody is left to kill."""
KEPT_BYTES = 8 * 2**20
_DESCRIPTORS = 64
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve the socket whose descriptor is given, until its other end is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal's goes to the client too
    warnings.simplefilter("ignore")
    readable(FORMATS)  # imports the decoders
    gc.collect()
    gc.freeze()  # so that collections of children do not copy these pages
    _serve(socket.socket(fileno=int(sys.argv[1])))
    return 0


def _serve(control: socket.socket) -> None:
    children: dict[int, int] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(control, selectors.EVENT_READ)
        control.sendall(READY)
        while True:
            for key, _ in selector.select():
                if key.fd != control.fileno():
                    if os.read(key.fd, 1) == SLOW:
                        os.setpriority(os.PRIO_PROCESS, children[key.fd], NICE)
                        continue
                    selector.unregister(key.fd)
                    os.close(key.fd)
                    _end(children.pop(key.fd))
                    continue
                try:
                    asked, descriptors, _, _ = socket.recv_fds(control, 1, 2)
                except OSError:
                    asked, descriptors = b"", []
                if not asked:
                    for pid in children.values():
                        _end(pid)
                    return
                job, lifeline = descriptors
                children[lifeline] = _forked(job, os.getpid())
                os.close(job)
                selector.register(lifeline, selectors.EVENT_READ)


def _end(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # it was not waited for, so the number is still its own
    os.waitpid(pid, 0)


def _forked(job: int, parent: int) -> int:
    """The process that does a job."""
    pid = os.fork()
    if pid == 0:
        try:
            _confine(parent)
            with socket.socket(fileno=job) as connection, contextlib.suppress(EOFError, OSError):
                connection.sendall(PID.pack(os.getpid()))
                while True:
                    _do(connection)
        finally:
            os._exit(0)
    return pid


def _confine(parent: int) -> None:
    """Bound what this process may use; nothing it writes is a line of anybody's log."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
    with open(os.devnull, "r+b", buffering=0) as nothing:
        for descriptor in range(3):
            os.dup2(nothing.fileno(), descriptor)
    keep_freed(KEPT_BYTES)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, _DESCRIPTORS))


def _allow(more_bytes: int) -> None:
    """Let the process take so much memory beyond what it has, where the system counts it."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as file:
        data_pages = int(file.read().split()[5])
    limit = data_pages * resource.getpagesize() + more_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _do(connection: socket.socket) -> None:
    """One image; EOFError where the client left."""

    def admit(pixels: int, more_bytes: int) -> None:
        if pixels > LARGE_PIXELS:
            connection.sendall(ASK)
            if connection.recv(1) != GRANT:
                raise EOFError
        _allow(more_bytes)

    data: bytearray | bytes
    fields, data = read_message(connection)
    pixels: bytes | memoryview = b""
    try:
        used = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
        resource.setrlimit(resource.RLIMIT_CPU, (used + CPU_SECONDS, resource.RLIM_INFINITY))
        _allow(2 * len(data) + SPARE_BYTES)
        data = encoded_file(fields, data)
        head, pixels = answer(decode(fields, data, admit))
    except EOFError:
        raise
    except NotBase64 as error:
        head = message({"error": "base64", "words": str(error)})
    except TooCostly as error:
        head = message({"error": "costly", "words": str(error)})
    except InvalidInput as error:
        head = message({"error": "invalid", "words": str(error)})
    except MemoryError:
        head = message({"error": "memory"})
    except Exception as error:  # noqa: BLE001 - by its type alone: its words may quote the image
        head = message({"error": "failed", "words": type(error).__name__})
    connection.sendall(head)
    connection.sendall(pixels)


if __name__ == "__main__":
    sys.exit(main())
