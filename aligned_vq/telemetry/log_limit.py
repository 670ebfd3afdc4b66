"""A handler of logs that writes no line for each of many hostile events.

Of every kind of event the first few of a window are written, and at its end one line that says how
many more there were. A kind is a logger with a message before its arguments are filled in, or what
a record's attribute `LIMIT` says; `LIMIT: None` is written always.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TextIO

LIMIT = "limit"
"""Attribute of a record that names its kind."""
GRPC = "grpc."
"""How names of its loggers begin."""
FIRST = 10
WINDOW_SECONDS = 10.0
MOST_KINDS = 1000
"""More than that share one: messages that are made up anew each time."""


class LimitedHandler(logging.StreamHandler[TextIO]):
    """Writes to a stream.

    Args:
        stream: to write to.
        first: records of a kind that are written in a window.
        seconds: the window's length.
    """

    def __init__(self, stream: TextIO, first: int = FIRST, seconds: float = WINDOW_SECONDS) -> None:
        super().__init__(stream)
        self._first = first
        self._seconds = seconds
        self._kinds: dict[str, _RateWindow] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it."""
        # gRPC's messages name what was called, so that each could be a kind of its own.
        words = record.name if record.name.startswith(GRPC) else f"{record.name}: {record.msg}"
        kind = getattr(record, LIMIT, words)
        if kind is None:
            super().emit(record)
            return
        now = time.monotonic()
        window = self._window(kind, now)
        window.seen += 1
        if window.seen <= self._first:
            super().emit(record)
            return
        window.last = record
        if self._timer is None:
            self._timer = threading.Timer(self._seconds, self._end_windows)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Write what is still to be told."""
        with self.lock or threading.RLock():
            if self._timer is not None:
                self._timer.cancel()
            for window in self._kinds.values():
                self._tell(window)
            self._kinds.clear()
        super().close()

    def _window(self, kind: str, now: float) -> _RateWindow:
        if len(self._kinds) >= MOST_KINDS and kind not in self._kinds:
            self._forget(now)
            if len(self._kinds) >= MOST_KINDS:
                kind = ""
        found = self._kinds.get(kind)
        if found is None or now >= found.ends:
            if found is not None:
                self._tell(found)
            found = self._kinds[kind] = _RateWindow(now + self._seconds)
        return found

    def _end_windows(self) -> None:
        """Tell of those that are over; again later while some are not."""
        with self.lock or threading.RLock():
            self._timer = None
            self._forget(time.monotonic())
            if any(window.last for window in self._kinds.values()):
                self._timer = threading.Timer(self._seconds / 10, self._end_windows)
                self._timer.daemon = True
                self._timer.start()

    def _forget(self, now: float) -> None:
        for kind in [kind for kind, window in self._kinds.items() if now >= window.ends]:
            self._tell(self._kinds.pop(kind))

    def _tell(self, window: _RateWindow) -> None:
        last, window.last = window.last, None
        if last is None:
            return
        more = window.seen - self._first
        like = last.name if last.name.startswith(GRPC) else str(last.msg).splitlines()[0]
        words = f"{more} more in {self._seconds:g} s like: {like}"
        summary = logging.LogRecord(last.name, last.levelno, "", 0, words, None, None)
        summary.__dict__["event"] = {"repeated": more}
        super().emit(summary)


class _RateWindow:
    """What came of one kind, until the window ends."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.seen = 0
        self.last: logging.LogRecord | None = None
