"""Hostile events do not fill a log: the first are written, the others counted."""

from __future__ import annotations

import io
import json
import logging
import time
from collections.abc import Callable, Iterator

import pytest

from aligned_vq.telemetry.log_limit import LIMIT, MAX_KINDS, LimitedHandler
from aligned_vq.telemetry.logs import JsonFormatter, TextFormatter

WORDS = "what a user said"
Opened = Callable[[float], tuple[logging.Logger, LimitedHandler, io.StringIO]]


@pytest.fixture
def opened() -> Iterator[Opened]:
    """Call it with a window's length for a logger that writes three of a kind."""
    logger = logging.getLogger("test.limit")
    handlers = []

    def run(seconds: float) -> tuple[logging.Logger, LimitedHandler, io.StringIO]:
        written = io.StringIO()
        handler = LimitedHandler(written, 3, seconds)
        handler.setFormatter(TextFormatter())
        handlers.append(handler)
        logger.addHandler(handler)
        logger.setLevel(logging.INFO)
        logger.propagate = False
        return logger, handler, written

    yield run
    for handler in handlers:
        logger.removeHandler(handler)
    logger.propagate = True


def test_the_first_are_written_and_the_others_counted(opened: Opened) -> None:
    logger, handler, written = opened(60)
    for number in range(1000):
        logger.info("refused from %d", number)
        logger.info("answered", extra={LIMIT: None}) if number % 100 == 0 else None
    handler.close()
    lines = written.getvalue().splitlines()
    assert sum("refused from" in line for line in lines) == 4
    assert sum("answered" in line for line in lines) == 10
    assert "997 more in 60 s like: refused from %d" in lines[-1]


def test_the_count_comes_when_the_window_ends(opened: Opened) -> None:
    logger, handler, written = opened(0.2)
    for _ in range(5):
        logger.warning("a connection was closed")
    deadline = time.monotonic() + 20
    while "2 more" not in written.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "2 more in 0.2 s like: a connection was closed" in written.getvalue()
    logger.warning("a connection was closed")
    assert written.getvalue().count("Z WARNING") == 5
    handler.close()


def test_json_stays_json(opened: Opened) -> None:
    logger, handler, written = opened(60)
    handler.setFormatter(JsonFormatter())
    for _ in range(10):
        try:
            raise ValueError(WORDS)
        except ValueError:
            logger.exception("socket.accept() out of system resource")
    handler.close()
    lines = [json.loads(line) for line in written.getvalue().splitlines()]
    assert len(lines) == 4
    assert lines[-1]["repeated"] == 7
    assert lines[-1]["level"] == "error"
    assert WORDS not in written.getvalue()


def test_messages_made_up_anew_share_one_limit(opened: Opened) -> None:
    logger, handler, written = opened(60)
    for number in range(2 * MAX_KINDS):
        logger.info(f"hostile {number}")
    handler.close()
    assert len(written.getvalue().splitlines()) <= MAX_KINDS + 4
