"""Logging of engine failures that clients can cause: rate limited, and without user text."""

from __future__ import annotations

import logging

from aligned_vq.telemetry.log_limit import LIMIT

_log = logging.getLogger(__name__)

_MAX_TRACEBACKS = 64
"""Most distinct failures to log with a traceback, once each."""
_logged_kinds: set[str] = set()


def log_failure(what: str, error: BaseException) -> None:
    """Log a failure, with a traceback the first time an error is raised at that place. The log
    handler limits the rate of lines of the same kind.

    Args:
        what: what failed; starts the line.
        error: the cause.
    """
    kind = _kind(error)
    first = kind not in _logged_kinds and len(_logged_kinds) < _MAX_TRACEBACKS
    if first:
        _logged_kinds.add(kind)
    message = f"{what}: {kind}"
    _log.error("%s", message, exc_info=error if first else None, extra={LIMIT: message})


def _kind(error: BaseException) -> str:
    """The exception's type and place. Its message is left out, as it may quote a user."""
    trace = error.__traceback__
    # The innermost frame: where the error was raised.
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    if trace is None:
        return type(error).__name__
    path = trace.tb_frame.f_code.co_filename
    return f"{type(error).__name__}, {path.rpartition('/')[2]} line {trace.tb_lineno}"
