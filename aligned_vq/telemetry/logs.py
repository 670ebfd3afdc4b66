"""Logs of a process that serves: a line of text or a JSON object for each event, on stderr.

Nothing a user said may get there, whichever library logs: exceptions are told by type and place, as
their words may quote what failed, and what does not print cannot begin a new line. Only gRPC's
core writes lines of its own, one for each failed handshake; `quiet_grpc` leaves them out.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime

from aligned_vq.telemetry.log_limit import GRPC, LimitedHandler

FORMATS = ("text", "json")
EVENT = "event"
"""Attribute of a log record that holds the fields of an event, which JSON logs write out."""
_TOLD = (OSError,)
"""Exceptions whose own words are logged: the system's, which quote paths and addresses at most."""

_log = logging.getLogger(__name__)


class TextFormatter(logging.Formatter):
    """A line for people: time, level, logger, message; below it where an exception came from."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record."""
        head = (_time(record), record.levelname, record.name, printable(_message(record)))
        return "\n".join((" ".join(head), *_exception(record)))


class JsonFormatter(logging.Formatter):
    """A line for machines: time, level, logger, message, the event's fields, and `exception`."""

    def format(self, record: logging.LogRecord) -> str:
        """The JSON object of one record."""
        fields: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": _message(record),
        }
        event = getattr(record, EVENT, None)
        if isinstance(event, dict):
            fields |= {name: value for name, value in event.items() if name not in fields}
        if lines := [*_exception(record)]:
            fields["exception"] = "\n".join(lines)
        return json.dumps(fields, default=str)


def configure(level: str, form: str) -> bool:
    """Send the logs of every library to stderr, unless the program did something of its own.

    Args:
        level: debug, info, warning or error; of ours and of libraries.
        form: one of `FORMATS`.

    Returns:
        Whether it did.
    """
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if handler not in logging.getLogger().handlers:
        return False
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    return True


def quiet_grpc() -> None:
    """Let gRPC's core write nothing, unless the environment's GRPC_VERBOSITY says what.

    It has to be called before gRPC is imported. A stranger decides how often a handshake fails, and
    what such lines quote.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def printable(text: str) -> str:
    """One line that shows what does not print, such as line breaks and colours, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    """In place of Python's own words on stderr, which quote the exception's."""
    if ended.exc_type is SystemExit or ended.exc_value is None:
        return
    name = ended.thread.name if ended.thread else "unknown"
    _log.error("the thread %s ended", name, exc_info=ended.exc_value)


def _message(record: logging.LogRecord) -> str:
    """What is logged; of asyncio the first line, as the others show tasks and what they hold; of
    gRPC neither headers, among which are tokens, nor the path that a stranger called."""
    if record.name.startswith(GRPC):
        return str(record.msg).partition(" [/")[0]
    words = record.getMessage()
    return words.partition("\n")[0] if record.name == "asyncio" else words


def _time(record: logging.LogRecord) -> str:
    """ISO 8601, UTC, milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(record: logging.LogRecord) -> Iterator[str]:
    """Types and places of an exception and of what led to it, oldest first."""
    error = record.exc_info[1] if record.exc_info else None
    chain: list[BaseException] = []
    while error is not None and error not in chain:
        chain.append(error)
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for each in reversed(chain):
        for frame in traceback.format_tb(each.__traceback__):
            yield from frame.rstrip().splitlines()
        told = isinstance(each, _TOLD) or type(each).__module__.split(".")[0] == "torch"
        name = f"{type(each).__module__}.{type(each).__qualname__}"
        yield f"{name}: {printable(str(each))}" if told else name
