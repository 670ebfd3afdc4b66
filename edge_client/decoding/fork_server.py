"""The fork server: a program that forks decoding processes and kills them.

It imports the decoders once, then waits; a fork takes about a millisecond and shares that memory.
It runs no threads, so that forking is safe, unlike in a process with gRPC's threads. A request for
a fork consists of two descriptors: a socket for jobs, and the read end of a pipe, the lifeline.
When the write end of the lifeline is closed, the server kills the process. The kernel closes it
when the client dies, however that happens, so no process outlives its client.

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
    GRANT_LARGE,
    LARGE_PIXELS,
    REQUEST_LARGE,
    SPARE_BYTES,
    NotBase64,
    TooCostly,
    decode,
    encoded_file,
    message_head,
    read_message,
    view_message,
)
from protos.memory import keep_freed

READY = b"r"
PID = struct.Struct(">I")
"""First bytes on a job socket: the process id, which stays valid until the lifeline is closed."""
SLOW = b"s"
"""Sent through a lifeline: lower the priority of the process."""
NICE = 5
CPU_SECONDS = 10
"""CPU limit of one image, far longer than any client waits: stops a process that the server did not
kill."""
RETAINED_BYTES = 8 * 2**20
"""Freed memory that a process does not return to the system."""
_MAX_DESCRIPTORS = 64
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve the control socket of the descriptor in `sys.argv[1]` until its peer is closed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the client, which ends the server
    warnings.simplefilter("ignore")
    readable(FORMATS)  # imports the decoders
    gc.collect()
    gc.freeze()  # garbage collection in the children must not write to, and so copy, these pages
    _serve(socket.socket(fileno=int(sys.argv[1])))
    return 0


def _serve(control: socket.socket) -> None:
    children: dict[int, int] = {}  # process ids by descriptor of the lifeline
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
                    _kill(children.pop(key.fd))
                    continue
                try:
                    request, descriptors, _, _ = socket.recv_fds(control, 1, 2)
                except OSError:
                    request, descriptors = b"", []
                if not request:
                    for pid in children.values():
                        _kill(pid)
                    return
                jobs, lifeline = descriptors
                children[lifeline] = _fork(jobs, os.getpid())
                os.close(jobs)
                selector.register(lifeline, selectors.EVENT_READ)


def _kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)  # not waited for yet, so the system has not reused its id
    os.waitpid(pid, 0)


def _fork(jobs: int, parent: int) -> int:
    """Process id of a new process that serves the job socket `jobs`."""
    pid = os.fork()
    if pid == 0:
        try:
            _confine(parent)
            with socket.socket(fileno=jobs) as connection, contextlib.suppress(EOFError, OSError):
                connection.sendall(PID.pack(os.getpid()))
                while True:
                    _serve_job(connection)
        finally:
            os._exit(0)  # not sys.exit, which would run the server's cleanup in this copy of it
    return pid


def _confine(parent: int) -> None:
    """Limit the resources of this process, and redirect its standard streams to nowhere: decoder
    libraries may print parts of an image."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # the server died before the signal was set up
        os._exit(1)
    with open(os.devnull, "r+b", buffering=0) as null:
        for descriptor in range(3):
            os.dup2(null.fileno(), descriptor)
    keep_freed(RETAINED_BYTES)
    # No core dump, which would hold an image, no file output, and few descriptors.
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_MAX_DESCRIPTORS, _MAX_DESCRIPTORS))


def _allow_memory(additional_bytes: int) -> None:
    """Limit the process to its present memory and `additional_bytes`; on Linux only."""
    if sys.platform != "linux":
        return
    with open("/proc/self/statm", "rb") as file:
        data_pages = int(file.read().split()[5])  # what RLIMIT_DATA counts
    # The hard limit stays unlimited: the next image sets a new soft limit.
    limit = data_pages * resource.getpagesize() + additional_bytes
    resource.setrlimit(resource.RLIMIT_DATA, (limit, resource.RLIM_INFINITY))


def _serve_job(connection: socket.socket) -> None:
    """Decode one image and send the result or the error; EOFError once the client is gone."""

    def admit(pixels: int, memory_bytes: int) -> None:
        if pixels > LARGE_PIXELS:
            connection.sendall(REQUEST_LARGE)
            if connection.recv(1) != GRANT_LARGE:
                raise EOFError
        _allow_memory(memory_bytes)

    data: bytearray | bytes
    fields, data = read_message(connection)
    pixels: bytes | memoryview = b""
    try:
        # RLIMIT_CPU counts from the start of the process, over all its images.
        used_seconds = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime)
        limit_seconds = used_seconds + CPU_SECONDS
        resource.setrlimit(resource.RLIMIT_CPU, (limit_seconds, resource.RLIM_INFINITY))
        _allow_memory(2 * len(data) + SPARE_BYTES)  # until the image's size is known
        data = encoded_file(fields, data)
        head, pixels = view_message(decode(fields, data, admit))
    except EOFError:
        raise
    except NotBase64 as error:
        head = message_head({"error": "base64", "words": str(error)})
    except TooCostly as error:
        head = message_head({"error": "costly", "words": str(error)})
    except InvalidInput as error:
        head = message_head({"error": "invalid", "words": str(error)})
    except MemoryError:
        head = message_head({"error": "memory"})
    except Exception as error:  # noqa: BLE001 - the type alone: the message may quote the image
        head = message_head({"error": "failed", "words": type(error).__name__})
    connection.sendall(head)
    connection.sendall(pixels)


if __name__ == "__main__":
    sys.exit(main())
