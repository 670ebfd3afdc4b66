"""What the suite asked, was answered and sent, and whether any of it got into a log.

`SUITE` listens from the start of the session: to everything logged in this process, to the stderr
of every cloud process, and to that of every command that a test runs. What must not be there it
takes from the client's own functions, so no test has to say what it asks.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from google.protobuf import text_encoding

from aligned_vq.telemetry.logs import JsonFormatter
from aligned_vq.types import Payload
from benchmarks.harness.processes import ServerProcess
from edge_client.connection.stream import AnswerStream
from protos import convert
from protos.messages import Question

LAST = "test_privacy.py"
"""The file that runs last."""
MIN_CHARS = 12
"""Shorter words are not looked for: `red` and `2` are in every log."""
WINDOW = 16
"""Longer ones are looked for in pieces of this size, so half of one is found too."""
MIN_KINDS = 6
"""Pieces of fewer different characters are not looked for: zeros are in every log."""


class Secrets:
    """Words and bytes that may not be in a log, in whatever form they could get there."""

    def __init__(self) -> None:
        self._pieces: dict[str, str] = {}
        self._short: dict[str, str] = {}
        self._known: set[object] = set()

    def add_text(self, what: str, text: str) -> None:
        """A question or an answer."""
        if text in self._known or len(text) < MIN_CHARS:
            return
        self._known.add(text)
        plain = json.dumps(text, ensure_ascii=False)[1:-1]
        self._add(what, (text, plain, json.dumps(text)[1:-1], repr(text)[1:-1], ascii(text)[1:-1]))
        self.add_bytes(what, text.encode("utf-8", "surrogatepass"))

    def add_bytes(self, what: str, body: bytes) -> None:
        """A payload's body."""
        if body in self._known or len(body) < MIN_CHARS:
            return
        self._known.add(body)
        self._add(what, _forms(body))

    def add_numbers(self, what: str, numbers: Sequence[int]) -> None:
        """Token ids, as lists of them are printed."""
        if tuple(numbers) in self._known or len(numbers) < 5:
            return
        self._known.add(tuple(numbers))
        self._add(what, (mark.join(map(str, numbers)) for mark in (", ", ",", " ", "\n")))

    def found_in(self, log: str) -> list[str]:
        """What a log says of them, with its surroundings."""
        seen: dict[str, str] = {}

        def note(what: str, needle: str, start: int) -> None:
            around = log[max(0, start - 80) : start + 80]
            seen.setdefault(what, f"{what}: {needle!r} in ...{around}...")

        for start in range(len(log) - WINDOW + 1):
            needle = log[start : start + WINDOW]
            if needle in self._pieces:
                note(self._pieces[needle], needle, start)
        for needle, what in self._short.items():
            if needle in log:
                note(what, needle, log.index(needle))
        return list(seen.values())

    def __len__(self) -> int:
        return len(self._known)

    def _add(self, what: str, forms: Iterable[str]) -> None:
        for form in forms:
            if len(form) < WINDOW:
                if len(form) >= MIN_CHARS and len(set(form)) >= MIN_KINDS:
                    self._short.setdefault(form, what)
                continue
            for start in (*range(0, len(form) - WINDOW, WINDOW), len(form) - WINDOW):
                piece = form[start : start + WINDOW]
                if len(set(piece)) >= MIN_KINDS:
                    self._pieces.setdefault(piece, what)


def _forms(body: bytes) -> Iterator[str]:
    """Ways to print bytes."""
    yield from (body.hex(), body.hex().upper(), body.hex(" "), body.hex(":"))
    yield repr(body)[2:-1]
    yield str(text_encoding.CEscape(body, False))  # protobuf's
    yield body.decode("latin-1")
    yield body.decode("utf-8", "replace")
    for mark in (", ", ","):
        yield mark.join(map(str, body))
    for shift in range(3):  # where it begins in a longer text
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(bytes(shift) + body).decode()[4 if shift else 0 : -4]


class SuiteLogs:
    """Every log of the suite, and what may not be in them."""

    def __init__(self) -> None:
        self.secrets = Secrets()
        self._here = io.StringIO()
        self._processes: list[ServerProcess] = []
        self._commands: list[str] = []

    def listen(self) -> None:
        """Wrap what asks, answers, sends and logs, once and until the process ends."""
        handler = logging.StreamHandler(self._here)
        handler.setFormatter(JsonFormatter())
        for name in ("", "transformers"):  # which hands nothing up
            logging.getLogger(name).addHandler(handler)
        logging.getLogger().setLevel(logging.DEBUG)
        for name in ("matplotlib", "PIL", "openai"):  # long, and theirs; the last tells all it asks
            logging.getLogger(name).setLevel(logging.INFO)
        _before(convert, "question_to_proto", self._asked)
        _before(convert, "payload_to_parts", self._sent)
        _after(AnswerStream, "_complete", self._answered)
        _after(ServerProcess, "__enter__", self._processes.append)
        run: Any = subprocess.run

        def listened(*args: Any, **options: Any) -> Any:
            done = run(*args, **options)
            if done.stderr:
                self.heard(str(done.stderr))
            return done

        subprocess.run = listened

    def heard(self, words: str) -> None:
        """What another process wrote to stderr."""
        self._commands.append(words)

    def logs(self) -> Iterator[tuple[str, str]]:
        """Where a log is from, and all of it."""
        yield "this process", self._here.getvalue()
        for number, process in enumerate(self._processes):
            yield f"process {number}", process.log
        for number, words in enumerate(self._commands):
            yield f"command {number}", words

    def leaks(self) -> list[str]:
        """What the logs say that they may not."""
        found_in = self.secrets.found_in
        return [f"{where}: {leak}" for where, log in self.logs() for leak in found_in(log)]

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


def _before(owner: Any, name: str, tell: Any) -> None:
    wrapped = getattr(owner, name)

    def telling(*args: Any, **options: Any) -> Any:
        tell(*args)
        return wrapped(*args, **options)

    setattr(owner, name, telling)


def _after(owner: Any, name: str, tell: Any) -> None:
    wrapped = getattr(owner, name)

    def telling(*args: Any, **options: Any) -> Any:
        result = wrapped(*args, **options)
        tell(args[0])
        return result

    setattr(owner, name, telling)


SUITE = SuiteLogs()
