"""Logging of serving processes: a line of text or a JSON object per event, on stderr.

User data must not reach the logs, whichever library writes them. Exceptions are logged by type and
location, because their messages may quote input, and unprintable characters are escaped. Only
gRPC's core bypasses this module, with a line per failed handshake; `quiet_grpc` silences it.
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
"""Attribute of a log record with additional fields for JSON logs."""
NOISY = ("torchao", "torch.utils._pytree")
"""Loggers that warn of parts of torchao that this machine has no use for. Wherever torchao is
installed, importing transformers imports it."""
_SAFE_MESSAGES = (OSError,)
"""Exceptions whose messages are logged: the system's, which contain paths and addresses only."""

_log = logging.getLogger(__name__)


class TextFormatter(logging.Formatter):
    """A line with time, level, logger and message, followed by the location of an exception."""

    def format(self, record: logging.LogRecord) -> str:
        """The lines of one record."""
        header = (_time(record), record.levelname, record.name, printable(_message(record)))
        return "\n".join((" ".join(header), *_exception(record)))


class JsonFormatter(logging.Formatter):
    """A JSON object with time, level, logger, message, the event's fields, and `exception`."""

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
    """Send all logs to stderr, unless the program has already configured logging.

    Args:
        level: debug, info, warning or error; for libraries too.
        form: one of `FORMATS`.

    Returns:
        Whether logging was configured by this call.
    """
    handler = LimitedHandler(sys.stderr)
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    # `basicConfig` does nothing if the root logger already has handlers.
    if handler not in logging.getLogger().handlers:
        return False
    for library in NOISY:
        logging.getLogger(library).setLevel(logging.ERROR)
    logging.captureWarnings(True)
    threading.excepthook = _thread_ended
    return True


def quiet_grpc() -> None:
    """Silence gRPC's core, unless the environment sets GRPC_VERBOSITY; call before importing gRPC.

    It logs every failed handshake, so any client could flood the logs and choose their content.
    """
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")


def printable(text: str) -> str:
    """The text with unprintable characters, such as line breaks and colour codes, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _thread_ended(ended: threading.ExceptHookArgs) -> None:
    """Replaces Python's hook, which prints the exception's message."""
    if ended.exc_type is SystemExit or ended.exc_value is None:
        return
    name = ended.thread.name if ended.thread else "unknown"
    _log.error("the thread %s ended", name, exc_info=ended.exc_value)


def _message(record: logging.LogRecord) -> str:
    """The record's message without the parts that may contain user data.

    asyncio's further lines show tasks and their arguments. gRPC's arguments contain headers, which
    may be tokens, and the called path.
    """
    if record.name.startswith(GRPC):
        return str(record.msg).partition(" [/")[0]
    message = record.getMessage()
    return message.partition("\n")[0] if record.name == "asyncio" else message


def _time(record: logging.LogRecord) -> str:
    """The record's time in ISO 8601, UTC, with milliseconds."""
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _exception(record: logging.LogRecord) -> Iterator[str]:
    """Types and locations of an exception and of its causes, the first cause first."""
    error = record.exc_info[1] if record.exc_info else None
    chain: list[BaseException] = []
    # Chains of causes may be circular.
    while error is not None and error not in chain:
        chain.append(error)
        # As in Python's traceback: the explicit cause, otherwise the context.
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    for cause in reversed(chain):
        for frame in traceback.format_tb(cause.__traceback__):
            yield from frame.rstrip().splitlines()
        # torch's messages describe shapes and memory.
        is_torch = type(cause).__module__.split(".")[0] == "torch"
        name = f"{type(cause).__module__}.{type(cause).__qualname__}"
        safe = isinstance(cause, _SAFE_MESSAGES) or is_torch
        yield f"{name}: {printable(str(cause))}" if safe else name
