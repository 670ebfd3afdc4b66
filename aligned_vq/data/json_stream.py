"""The records of a large JSON file one after the other, with the bytes they lie at.

The file is read through a window, and the JSON parser itself says where a record ends: no quote,
escape or brace inside a string can mislead it, and every record is known to parse.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, NoReturn

from aligned_vq.errors import ConfigError

WINDOW_BYTES = 2**18
"""Read at a time; the window grows to hold a longer record."""
MAX_RECORD_CHARS = 2**24
"""Where no record ends within this length, the file is damaged."""
_SPACE = re.compile(r"[ \t\n\r]*")
_SURROGATE = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One object of the array: its number counted from 0, and `[start, end)` in bytes."""

    path: Path
    number: int
    start: int
    end: int
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """How messages call it: file, number and id."""
        ids = [repr(self.fields[key]) for key in ("id", "question_id") if key in self.fields]
        return f"{self.path}, record {self.number}" + (f" (id {ids[0]})" if ids else "")

    def text(self, value: object, what: str) -> str:
        """`value`, if it is text that can be encoded.

        Raises:
            ConfigError: It is not a string, or holds half of a surrogate pair.
        """
        if isinstance(value, str) and not _SURROGATE.search(value):
            return value
        raise ConfigError(
            f"{self.name}: expected {what} to be text, got {value!r:.80}; mend the record or "
            "take it out"
        )


def stream_records(path: Path, member: str | None = None) -> Iterator[Record]:
    """Every record of the array that the file is, or that it holds as `member` of an object.

    Holds one window of the file at a time.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, is not such JSON, or ends too early.
    """
    try:
        with path.open("rb") as file:
            window = _ReadWindow(file, path)
            if member is not None:
                _find_member(window, member)
            window.take("[")
            number = 0
            follows = window.take("]") if window.peek() == "]" else ","
            while follows == ",":
                if window.peek() != "{":
                    window.refuse("a record in braces")
                start, end, fields = window.value()
                yield Record(path, number, start, end, fields)
                number += 1
                follows = window.take(",]")
            if member is None and window.peek():
                window.refuse("the end of the file after its array")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a readable JSON file in UTF-8 at {path}, got {error}; check path, "
            "permissions and encoding"
        ) from error


def _find_member(window: _ReadWindow, member: str) -> None:
    """Move to the value of one key of the outermost object."""
    window.take("{")
    while True:
        if window.peek() != '"':
            window.refuse(f"the key {member!r}")
        _, _, key = window.value()
        window.take(":")
        if key == member:
            return
        window.peek()
        window.value()
        if window.take(",}") == "}":
            window.refuse(f"the key {member!r} before the object's end")


class _ReadWindow:
    """A stretch of the file as text, the place in it, and that place in bytes."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parser = json.JSONDecoder()
        self._text = ""
        self._at = 0
        self._byte = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(self._byte)

    def peek(self) -> str:
        """The next character that is not space, which becomes the place; empty at the end."""
        while True:
            spaces = _SPACE.match(self._text, self._at)
            self._advance(self._at if spaces is None else spaces.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def take(self, allowed: str) -> str:
        """Step over the next character, which must be one of `allowed`."""
        found = self.peek()
        if not found or found not in allowed:
            self.refuse(" or ".join(map(repr, allowed)))
        self._advance(self._at + 1)
        return found

    def value(self) -> tuple[int, int, Any]:
        """The JSON value here, and where it lies in bytes: start, end, value."""
        value: Any = None
        while True:
            fault = ""
            try:
                value, end = self._parser.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                fault, end = f"{error.msg} {error.pos - self._at} characters on", len(self._text)
            except (ValueError, RecursionError) as error:  # too many digits, too many brackets
                fault, end = str(error), len(self._text)
            # Cut off by the window, or whole only because the window ends here, as 12 is of 123.
            too_long = len(self._text) - self._at > MAX_RECORD_CHARS
            if end < len(self._text) or too_long or not self._fill():
                break
        if fault:
            self.refuse(f"valid JSON ({fault})")
        start = self._byte
        self._advance(end)
        return start, self._byte, value

    def refuse(self, expected: str) -> NoReturn:
        """Raise what is wrong here."""
        found = self._text[self._at : self._at + 40]
        raise ConfigError(
            f"{self._path}, byte {self._byte}: expected {expected}, got "
            f"{repr(found) if found else 'the end of the file'}; "
            "fetch the file again or mend it"
        )

    def _advance(self, place: int) -> None:
        passed = self._text[self._at : place]
        self._byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = place

    def _fill(self) -> bool:
        """Read on, dropping what lies before the place; False at the end of the file."""
        rest = self._text[self._at :]
        data = self._file.read(max(WINDOW_BYTES, len(rest)))  # doubled: linear for long records
        more = self._decoder.decode(data, final=not data)
        if data:
            self._text, self._at = rest + more, 0
        return bool(data)
