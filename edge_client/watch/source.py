"""Where pictures come from, and the thread that keeps the newest of them."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from aligned_vq.images.load import ImageSource

MAX_BACKOFF_SECONDS = 30.0


class SourceLost(Exception):
    """The source is not there, or not any more; it may come back."""


@dataclass(frozen=True)
class Frame:
    """One picture of a source, not yet opened."""

    number: int
    """Of the source, from 1 on."""
    load: Callable[[], ImageSource] = field(repr=False)
    """The picture; raises AlignedVQError where it is damaged."""
    name: str = ""
    """Of its file, where it has one."""
    time: float = field(default_factory=time.time)
    """Seconds since 1970 when it came."""


class Source(Protocol):
    """A camera, a video or a folder."""

    name: str
    """For people."""

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Pictures as they come, until the source ends or `stop` is set.

        Raises:
            SourceLost: it cannot be opened, or it broke off; asking again may help.
        """
        ...


class Newest:
    """Reads a source in a thread and holds its newest frame; older ones are dropped and counted.

    A source that is lost is opened again, with growing pauses, and people are told on stderr.

    Args:
        source: to read.
        all_frames: wait until a frame is taken before the next is read; none is dropped.
        backoff_seconds: before a lost source is opened again, the first time.
    """

    def __init__(
        self, source: Source, *, all_frames: bool = False, backoff_seconds: float = 1.0
    ) -> None:
        self._source = source
        self._all = all_frames
        self._backoff = backoff_seconds
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._skipped = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def close(self) -> None:
        """Read no more."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(5)

    @property
    def ended(self) -> bool:
        """Will no frame come any more?"""
        with self._changed:
            return self._ended and self._frame is None

    def take(self, timeout_seconds: float) -> tuple[Frame, int] | None:
        """The newest frame and how many were dropped before it; None if none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._frame or self._ended, timeout_seconds)
            if self._failure is not None:
                raise self._failure
            if self._frame is None:
                return None
            taken = self._frame, self._skipped
            self._frame, self._skipped = None, 0
            self._changed.notify_all()
            return taken

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as error:  # noqa: BLE001 - raised again where frames are taken
            self._failure = error
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def _read(self) -> None:
        pause, lost = self._backoff, False
        while not self._stop.is_set():
            try:
                for frame in self._source.frames(self._stop):
                    if lost:
                        _tell(f"{self._source.name} is back")
                    pause, lost = self._backoff, False
                    self._put(frame)
                return
            except SourceLost as error:
                if not lost:
                    _tell(f"{self._source.name} is lost ({error}); trying again")
                lost = True
                self._stop.wait(pause)
                pause = min(2 * pause, MAX_BACKOFF_SECONDS)

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._all:
                self._changed.wait_for(lambda: self._frame is None or self._stop.is_set())
            self._skipped += self._frame is not None
            self._frame = frame
            self._changed.notify_all()


def _tell(words: str) -> None:
    sys.stderr.write(f"edge-client: {words}\n")
    sys.stderr.flush()
