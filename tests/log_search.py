"""A search of the logs that tests cause, for anything that may not be in one.

What may not be there is taken from the client's functions, so no test says what it asks.
"""

from __future__ import annotations

import io
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from aligned_vq.telemetry.logs import JsonFormatter
from aligned_vq.types import Payload
from benchmarks.harness.processes import ServerProcess
from edge_client.connection.stream import AnswerStream
from protos import convert
from protos.messages import Question
from tests import commands
from tests.privacy import SECRETS, WINDOW, Secrets

LOGGERS = ("", "transformers")
"""Those that are listened to: `transformers` hands nothing up to the root."""
QUIET = ("matplotlib", "PIL", "openai")
"""Foreign loggers that are long at DEBUG; the last one logs every request there."""


class LogSearch:
    """Logs of this process, of servers and of commands, from the moment `recording` is entered."""

    def __init__(self, secrets: Secrets = SECRETS) -> None:
        self.secrets = secrets
        self._here = io.StringIO()
        self._handler = logging.StreamHandler(self._here)
        self._handler.setFormatter(JsonFormatter())
        self._processes: list[ServerProcess] = []
        self._searched: dict[str, int] = {}

    @contextmanager
    def recording(self) -> Iterator[None]:
        """Record what is asked, sent and answered, and which servers start."""
        with pytest.MonkeyPatch.context() as patch:
            _before(patch, convert, "question_to_proto", self._asked)
            _before(patch, convert, "payload_to_parts", self._sent)
            _after(patch, AnswerStream, "_complete", self._answered)
            _after(patch, ServerProcess, "__enter__", self._processes.append)
            yield

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Hear every logger of this process, down to DEBUG."""
        levels = {"": logging.DEBUG, **dict.fromkeys(QUIET, logging.INFO)}
        before = {name: logging.getLogger(name).level for name in levels}
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
        for name in LOGGERS:
            logging.getLogger(name).addHandler(self._handler)
        try:
            yield
        finally:
            for name in LOGGERS:
                logging.getLogger(name).removeHandler(self._handler)
            for name, level in before.items():
                logging.getLogger(name).setLevel(level)

    def new_leaks(self) -> list[str]:
        """What was logged since the last call and may not be in a log, with its surroundings."""
        leaks = []
        for where, log in self._logs():
            new = log[max(0, self._searched.get(where, 0) - WINDOW) :]  # a piece may be cut in two
            self._searched[where] = len(log)
            leaks += [f"{where}: {leak}" for leak in self.secrets.found_in(new)]
        return leaks

    def all_leaks(self) -> list[str]:
        """The same of whole logs: what was logged before it was known as a secret counts too."""
        self._searched.clear()
        return self.new_leaks()

    def _logs(self) -> Iterator[tuple[str, str]]:
        """Where a log is from, and all of it."""
        yield "this process", self._here.getvalue()
        yield "commands", "\n".join(commands.STDERR)
        for number, process in enumerate(self._processes):
            yield f"server {number}", process.log

    def _asked(self, question: Question, *_: object) -> None:
        if _drawn():
            return
        for text in (question.text, *(text for turn in question.turns for text in turn)):
            self.secrets.add_text("question", text)

    def _sent(self, payload: Payload, *_: object) -> None:
        if not payload.body.isascii():  # else it is words or counts of a test, not indices
            self.secrets.add_bytes("payload", payload.body)

    def _answered(self, stream: AnswerStream) -> None:
        if stream.answer is not None:
            self.secrets.add_text("answer", str(stream.answer))
            self.secrets.add_numbers("token ids", stream.answer.details.token_ids)


def _drawn() -> bool:
    """Whether a property test drew what is converted. Nobody asked that, and Hypothesis draws words
    of this code too, such as a module's name, which any log may have."""
    hypothesis = sys.modules.get("hypothesis")  # not there where only the engine's tests run
    return hypothesis is not None and bool(hypothesis.currently_in_test_context())


def _before(patch: pytest.MonkeyPatch, owner: Any, name: str, tell: Any) -> None:
    wrapped = getattr(owner, name)

    def telling(*args: Any, **options: Any) -> Any:
        tell(*args)
        return wrapped(*args, **options)

    patch.setattr(owner, name, telling)


def _after(patch: pytest.MonkeyPatch, owner: Any, name: str, tell: Any) -> None:
    wrapped = getattr(owner, name)

    def telling(*args: Any, **options: Any) -> Any:
        result = wrapped(*args, **options)
        tell(args[0])
        return result

    patch.setattr(owner, name, telling)
