"""Kills a writing process at a random moment."""

from __future__ import annotations

import itertools
import os
import select
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

NOBODY = 65534
UNINTERRUPTED_STEPS = 3
"""Steps of an uninterrupted run; random moments are drawn from its duration and calls."""
_LONGEST_SECONDS = 120.0
_MODULES = ("posix", "fcntl", "sqlite3", "_io", "safetensors._safetensors_rust")
_CHANGING_CALLS = (
    *("mkdir", "rmdir", "rename", "replace", "link", "unlink", "open", "write", "close", "chmod"),
    *("chown", "fsync", "flock", "serialize_file", "execute", "executescript", "__exit__"),
)
"""Calls that may change what is on disk; only between them the state on disk can differ."""
_SHARE_BY_CALL = 0.75
"""Share of the moments that are drawn by call, not by time."""
_BEGUN, _DONE = b"b", b"d"
"""What the writing process reports to its parent before and after a step."""


class Writer(Protocol):
    """Writes something repeatedly, with different content in each step."""

    name: str

    def start(self, rng: np.random.Generator) -> int:
        """Prepare for one process; returns the number of its first step."""

    def write(self, step: int) -> None:
        """Write one step; called in the process that is killed."""

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """Open what is on disk with the real readers.

        Args:
            first: number of the process's first step.
            done: number of steps that returned.
            begun: number of steps that were begun.

        Returns:
            "before" or "new" for the content of the last finished or of the interrupted step, and
            the faults.
        """

    def leftovers(self) -> list[str]:
        """Names of temporary files that remain after an uninterrupted step."""


@dataclass(frozen=True)
class Moment:
    """When to kill: after a time, or at a call that changes the disk."""

    seconds: float | None = None
    call: int | None = None


@dataclass(frozen=True)
class UninterruptedRun:
    """Duration and number of changing calls of `UNINTERRUPTED_STEPS` steps."""

    seconds: float
    calls: int

    def moment(self, rng: np.random.Generator) -> Moment:
        """A random moment, mostly by call.

        The critical states lie between two calls, but most of the time passes elsewhere.
        """
        if rng.random() < _SHARE_BY_CALL:
            return Moment(call=int(rng.integers(1, self.calls + 1)))
        return Moment(seconds=float(rng.uniform(0, self.seconds)))


def run_uninterrupted(writer: Writer, first: int) -> UninterruptedRun:
    """Run `UNINTERRUPTED_STEPS` steps in a child process and measure them."""
    calls = _CallCounter(None)

    def write(pipe: int) -> None:
        start = time.monotonic()
        # A profiler sees calls of C functions, and so every system call of the writers.
        sys.setprofile(calls)
        for step in range(first, first + UNINTERRUPTED_STEPS):
            writer.write(step)
        sys.setprofile(None)
        os.write(pipe, f"{time.monotonic() - start} {calls.count}".encode())
        os._exit(0)

    seconds, count = _run_forked(write, Moment(seconds=_LONGEST_SECONDS), dies=False).split()
    return UninterruptedRun(float(seconds), int(count))


def kill_at(writer: Writer, first: int, moment: Moment) -> tuple[int, int]:
    """Kill a process of the writer at a moment; the numbers of steps done and of steps begun.

    Raises:
        RuntimeError: the process ended by itself.
    """

    def write(pipe: int) -> None:
        if moment.call is not None:
            sys.setprofile(_CallCounter(moment.call))
        for step in itertools.count(first):
            os.write(pipe, _BEGUN)
            writer.write(step)
            os.write(pipe, _DONE)

    reports = _run_forked(write, moment)
    return reports.count(_DONE), reports.count(_BEGUN)


def readable_by_others(paths: Iterable[Path]) -> list[bool]:
    """Whether each file can be read by a user who is neither its owner nor in its group.

    Root tries to read them as such a user; other users can only look at the modes.
    """
    files = list(paths)
    if os.geteuid():
        return [bool(path.stat().st_mode & 0o004) for path in files]

    def try_to_read(pipe: int) -> None:
        os.setgroups([])  # groups first: without root they could not be changed any more
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        for path in files:
            try:
                path.read_bytes()
                os.write(pipe, b"y")
            except PermissionError:
                os.write(pipe, b"n")
        os._exit(0)

    verdicts = _run_forked(try_to_read, Moment(seconds=_LONGEST_SECONDS), dies=False)
    return [verdict == ord("y") for verdict in verdicts]


class _CallCounter:
    """A profiler that counts the events before and after each changing call, and kills at one.

    Args:
        last: number of the event at which the process kills itself; None: never.
    """

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self._last = last

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if not event.startswith("c_") or argument.__name__ not in _CHANGING_CALLS:
            return
        owner = type(getattr(argument, "__self__", None)).__module__
        if argument.__module__ in _MODULES or owner in _MODULES:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _run_forked(run: Callable[[int], None], moment: Moment, dies: bool = True) -> bytes:
    """Run a function in a forked process; returns what it wrote to its pipe until its end.

    Args:
        run: called with the file descriptor of the pipe.
        moment: when to kill the process, if by time.
        dies: whether the process has to be killed or to exit by itself.
    """
    read, write = os.pipe()
    sys.stdout.flush()  # or the child would write buffered output a second time
    child = os.fork()
    if not child:
        try:
            os.close(read)
            run(write)
        except BaseException:  # noqa: BLE001 - the parent reports it
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            os._exit(1)  # without the parent's exit handlers
    os.close(write)  # or the parent would never see the end of the pipe
    output = _read_pipe(read, time.monotonic() + (moment.seconds or _LONGEST_SECONDS), child)
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    expected = -signal.SIGKILL if dies else 0
    if status != expected:
        raise RuntimeError(
            f"expected the child process to end with status {expected}, got {status}; its error "
            "is above"
        )
    return output


def _read_pipe(pipe: int, deadline: float, child: int) -> bytes:
    """Read until the child closes the pipe; kills it at the deadline."""
    output = b""
    while True:
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            os.kill(child, signal.SIGKILL)
            remaining = _LONGEST_SECONDS  # its last reports are still in the pipe
        if select.select([pipe], [], [], remaining)[0]:
            more = os.read(pipe, 65536)
            if not more:
                return output
            output += more
