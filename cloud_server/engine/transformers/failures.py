"""What the log says of failures in the engine that clients can cause."""

from __future__ import annotations

import logging

from aligned_vq.telemetry.log_limit import LIMIT

_log = logging.getLogger(__name__)

_MOST_PLACES = 64
"""Whose traceback is written, once each."""
_seen: set[str] = set()


def log_failure(what: str, error: BaseException) -> None:
    """Log a failure, with its traceback the first time that it is raised where it was; the handler
    of logs limits how many lines of one kind there are.

    Args:
        what: happened; begins the line.
        error: why.
    """
    kind = _kind(error)
    first = kind not in _seen and len(_seen) < _MOST_PLACES
    if first:
        _seen.add(kind)
    words = f"{what}: {kind}"
    _log.error("%s", words, exc_info=error if first else None, extra={LIMIT: words})


def _kind(error: BaseException) -> str:
    """Type and place; an exception's words may quote a user's."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    path = trace.tb_frame.f_code.co_filename
    return f"{type(error).__name__}, {path.rpartition('/')[2]} line {trace.tb_lineno}"
