"""A process that writes, killed at a moment drawn at random."""

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
STEPS = 3
"""Moments are spread over this many of a writer's steps."""
_LONGEST_SECONDS = 120.0
_MODULES = ("posix", "fcntl", "sqlite3", "_io", "safetensors._safetensors_rust")
_CHANGES = (
    *("mkdir", "rmdir", "rename", "replace", "link", "unlink", "open", "write", "close", "chmod"),
    *("chown", "fsync", "flock", "serialize_file", "execute", "executescript", "__exit__"),
)
"""Calls that change what is on disk, or may: the states between them are those to be seen."""
_BY_CALL = 0.75
_BEGUN, _DONE = b"b", b"d"


class Writer(Protocol):
    """Something that is written again and again, each step different from the one before."""

    name: str

    def start(self, rng: np.random.Generator) -> int:
        """Make the place ready for one process; the number of its first step."""

    def write(self, step: int) -> None:
        """Write; called in the process that is killed."""

    def check(self, first: int, done: int, begun: int) -> tuple[str, list[str]]:
        """What is there once `done` steps from `first` on returned and `begun` were begun: "before"
        or "new", and what is wrong with it."""

    def leftovers(self) -> list[str]:
        """What is left behind once a step was not disturbed."""


@dataclass(frozen=True)
class Moment:
    """When to kill: after a time, or at a call to the system."""

    seconds: float | None = None
    call: int | None = None


@dataclass(frozen=True)
class Undisturbed:
    """What `STEPS` steps take."""

    seconds: float
    calls: int

    def moment(self, rng: np.random.Generator) -> Moment:
        """By time, or more often by calls: what is decisive is between two of them, and most of
        the time is spent otherwise."""
        if rng.random() < _BY_CALL:
            return Moment(call=int(rng.integers(1, self.calls + 1)))
        return Moment(seconds=float(rng.uniform(0, self.seconds)))


def undisturbed(writer: Writer, first: int) -> Undisturbed:
    """Measure `STEPS` steps in a process of their own."""
    calls = _Calls(None)

    def write(pipe: int) -> None:
        start = time.monotonic()
        sys.setprofile(calls)
        for step in range(first, first + STEPS):
            writer.write(step)
        sys.setprofile(None)
        os.write(pipe, f"{time.monotonic() - start} {calls.count}".encode())
        os._exit(0)

    seconds, count = _forked(write, Moment(seconds=_LONGEST_SECONDS), dies=False).split()
    return Undisturbed(float(seconds), int(count))


def killed(writer: Writer, first: int, moment: Moment) -> tuple[int, int]:
    """Kill a process of the writer at a moment; how many steps were done, and how many begun.

    Raises:
        RuntimeError: the process ended by itself.
    """

    def write(pipe: int) -> None:
        if moment.call is not None:
            sys.setprofile(_Calls(moment.call))
        for step in itertools.count(first):
            os.write(pipe, _BEGUN)
            writer.write(step)
            os.write(pipe, _DONE)

    said = _forked(write, moment)
    return said.count(_DONE), said.count(_BEGUN)


def opened_by_others(paths: Iterable[Path]) -> list[bool]:
    """Whether each file can be read by a user who is neither its owner nor in its group. Only root
    can become such a user; without, the modes answer."""
    files = list(paths)
    if os.geteuid():
        return [bool(path.stat().st_mode & 0o004) for path in files]

    def look(pipe: int) -> None:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        for path in files:
            try:
                path.read_bytes()
                os.write(pipe, b"y")
            except PermissionError:
                os.write(pipe, b"n")
        os._exit(0)

    said = _forked(look, Moment(seconds=_LONGEST_SECONDS), dies=False)
    return [own == ord("y") for own in said]


class _Calls:
    """A profiler that counts what changes the disk, before and behind each, and kills at one."""

    def __init__(self, last: int | None) -> None:
        self.count = 0
        self._last = last

    def __call__(self, frame: Any, event: str, argument: Any) -> None:
        if not event.startswith("c_") or argument.__name__ not in _CHANGES:
            return
        owner = type(getattr(argument, "__self__", None)).__module__
        if argument.__module__ in _MODULES or owner in _MODULES:
            self.count += 1
            if self.count == self._last:
                os.kill(os.getpid(), signal.SIGKILL)


def _forked(run: Callable[[int], None], moment: Moment, dies: bool = True) -> bytes:
    """What a process writes to its pipe until it is killed, or ends."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        try:
            os.close(read)
            run(write)
        except BaseException:  # noqa: BLE001 - whatever it is, the parent tells
            sys.setprofile(None)
            traceback.print_exc()
        finally:
            os._exit(1)
    os.close(write)
    said = _until_closed(read, time.monotonic() + (moment.seconds or _LONGEST_SECONDS), child)
    os.close(read)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if status != (-signal.SIGKILL if dies else 0):
        raise RuntimeError(f"expected the writing process to be killed, got its end by {status}")
    return said


def _until_closed(pipe: int, deadline: float, child: int) -> bytes:
    said = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            os.kill(child, signal.SIGKILL)
            left = _LONGEST_SECONDS  # what it wrote before is still in the pipe
        if select.select([pipe], [], [], left)[0]:
            more = os.read(pipe, 65536)
            if not more:
                return said
            said += more
