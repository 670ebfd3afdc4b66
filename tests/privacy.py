"""What tests ask, are answered and send, and whether any of it stands in a log.

`SECRETS` holds them for this process. The fixture `private_logs` takes them from the client's
functions (`tests.log_search`); helpers that speak to a service without that client add theirs.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable, Iterator, Sequence

from google.protobuf import text_encoding

MIN_CHARS = 12
"""Shorter words are not looked for: `red` and `2` are in every log."""
WINDOW = 16
"""Longer ones are looked for in pieces of this size, so half of one is detected too."""
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


SECRETS = Secrets()
