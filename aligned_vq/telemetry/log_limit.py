"""A log handler with a rate limit per kind of event, so that hostile clients cannot flood the logs.

In each window the first records of a kind are written; at its end, one line states how many more
there were. The kind of a record is its attribute `LIMIT`, by default the logger's name with the
unformatted message. Records with `LIMIT: None` are never limited.
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TextIO

LIMIT = "limit"
"""Attribute of a record that names its kind."""
GRPC = "grpc."
"""Prefix of the names of gRPC's loggers."""
FIRST = 10
WINDOW_SECONDS = 10.0
MAX_KINDS = 1000
"""Further kinds share one window: bounds the memory if messages are formatted before logging."""


class LimitedHandler(logging.StreamHandler[TextIO]):
    """A stream handler with a rate limit per kind of event.

    Args:
        stream: to write to.
        first: records of a kind that are written per window.
        seconds: length of a window.
    """

    def __init__(self, stream: TextIO, first: int = FIRST, seconds: float = WINDOW_SECONDS) -> None:
        super().__init__(stream)
        self._first = first
        self._seconds = seconds
        self._kinds: dict[str, _RateWindow] = {}
        self._timer: threading.Timer | None = None

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record, or count it if its kind is over the limit."""
        # gRPC's messages contain the path that a client called, so each could be another kind.
        default = record.name if record.name.startswith(GRPC) else f"{record.name}: {record.msg}"
        kind = getattr(record, LIMIT, default)
        if kind is None:
            super().emit(record)
            return
        now = time.monotonic()
        window = self._window(kind, now)
        window.count += 1
        if window.count <= self._first:
            super().emit(record)
            return
        window.last_suppressed = record
        if self._timer is None:
            # Writes the summary even if no further record arrives.
            self._timer = threading.Timer(self._seconds, self._on_timer)
            self._timer.daemon = True
            self._timer.start()

    def close(self) -> None:
        """Write the summaries that are due and close the handler."""
        with self.lock or threading.RLock():
            if self._timer is not None:
                self._timer.cancel()
            for window in self._kinds.values():
                self._write_summary(window)
            self._kinds.clear()
        super().close()

    def _window(self, kind: str, now: float) -> _RateWindow:
        """The current window of a kind."""
        if len(self._kinds) >= MAX_KINDS and kind not in self._kinds:
            self._close_ended(now)
            if len(self._kinds) >= MAX_KINDS:
                kind = ""  # the shared window
        window = self._kinds.get(kind)
        if window is None or now >= window.ends:
            if window is not None:
                self._write_summary(window)
            window = self._kinds[kind] = _RateWindow(now + self._seconds)
        return window

    def _on_timer(self) -> None:
        """Close the windows that have ended, and repeat while summaries are pending."""
        # The timer runs in another thread; `emit` is called with this lock held.
        with self.lock or threading.RLock():
            self._timer = None
            self._close_ended(time.monotonic())
            if any(window.last_suppressed for window in self._kinds.values()):
                # Windows end at different times, so they are checked ten times per window.
                self._timer = threading.Timer(self._seconds / 10, self._on_timer)
                self._timer.daemon = True
                self._timer.start()

    def _close_ended(self, now: float) -> None:
        for kind in [kind for kind, window in self._kinds.items() if now >= window.ends]:
            self._write_summary(self._kinds.pop(kind))

    def _write_summary(self, window: _RateWindow) -> None:
        last, window.last_suppressed = window.last_suppressed, None
        if last is None:
            return
        more = window.count - self._first
        like = last.name if last.name.startswith(GRPC) else str(last.msg).splitlines()[0]
        message = f"{more} more in {self._seconds:g} s like: {like}"
        summary = logging.LogRecord(last.name, last.levelno, "", 0, message, None, None)
        summary.__dict__["event"] = {"repeated": more}
        super().emit(summary)


class _RateWindow:
    """The records of one kind in a window that ends at the monotonic time `ends`."""

    def __init__(self, ends: float) -> None:
        self.ends = ends
        self.count = 0
        self.last_suppressed: logging.LogRecord | None = None
