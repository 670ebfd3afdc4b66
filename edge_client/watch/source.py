"""Sources of images, and the thread that reads a source and holds its newest frame."""

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
    """The source is unavailable, but may become available again."""


@dataclass(frozen=True)
class Frame:
    """One image of a source, not yet opened."""

    number: int
    """Counts the frames of the source, from 1."""
    load: Callable[[], ImageSource] = field(repr=False)
    """Returns the image; raises AlignedVQError if it is damaged."""
    name: str = ""
    """Name of its file; empty for a video."""
    time: float = field(default_factory=time.time)
    """When it arrived, in seconds since 1970."""
    labels: dict[str, float] = field(default_factory=dict)
    """Probabilities by label, if frames are classified."""


class Source(Protocol):
    """A camera, a video or a folder."""

    name: str
    """Name for messages, without secrets."""

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        """Frames as they arrive, until the source ends or `stop` is set.

        Raises:
            SourceLost: it cannot be opened, or it broke off; another call may succeed.
        """
        ...


class NewestFrame:
    """Reads a source in a thread and holds its newest frame; older ones are dropped and counted.

    A lost source is reopened with exponential backoff, and both events are reported on stderr.

    Args:
        source: to read.
        all_frames: read the next frame only when the last one was taken, so that none is dropped.
        backoff_seconds: wait before a lost source is first reopened.
    """

    def __init__(
        self, source: Source, *, all_frames: bool = False, backoff_seconds: float = 1.0
    ) -> None:
        self._source = source
        self._all_frames = all_frames
        self._backoff_seconds = backoff_seconds
        self._stop = threading.Event()
        self._changed = threading.Condition()
        self._frame: Frame | None = None
        self._skipped = 0
        self._ended = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="source", daemon=True)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def close(self) -> None:
        """Stop reading."""
        self._stop.set()
        with self._changed:
            self._changed.notify_all()
        self._thread.join(5)  # not for ever: reading from a device may block

    @property
    def ended(self) -> bool:
        """Whether the source has ended and its last frame was taken."""
        with self._changed:
            return self._ended and self._frame is None

    def take(self, timeout_seconds: float) -> tuple[Frame, int] | None:
        """The newest frame, and the number of frames dropped before it; None if none arrives in
        time. Raises what ended the reading thread."""
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
        backoff_seconds, lost = self._backoff_seconds, False
        while not self._stop.is_set():
            try:
                for frame in self._source.frames(self._stop):
                    if lost:
                        _report(f"{self._source.name} is back")
                    # Reset by a frame, not by opening: a camera may open and deliver nothing.
                    backoff_seconds, lost = self._backoff_seconds, False
                    self._put(frame)
                return
            except SourceLost as error:
                if not lost:
                    _report(f"{self._source.name} is lost ({error}); trying again")
                lost = True
                self._stop.wait(backoff_seconds)
                backoff_seconds = min(2 * backoff_seconds, MAX_BACKOFF_SECONDS)

    def _put(self, frame: Frame) -> None:
        with self._changed:
            if self._all_frames:
                self._changed.wait_for(lambda: self._frame is None or self._stop.is_set())
            # Newer images matter more than all images: the one that was not taken is replaced.
            self._skipped += self._frame is not None
            self._frame = frame
            self._changed.notify_all()


def _report(message: str) -> None:
    sys.stderr.write(f"edge-client: {message}\n")
    sys.stderr.flush()
