"""Streaming of the records of a large JSON file, with their byte offsets.

The file is read in windows, and the JSON parser determines where a record ends. Quotes, escapes and
braces inside strings are therefore handled correctly, and every record is valid JSON.
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
"""Minimum read size; the window grows to contain a longer record."""
MAX_RECORD_CHARS = 2**24
"""Maximum length of a record; a longer one means that the file is damaged."""
_SPACE = re.compile(r"[ \t\n\r]*")
# JSON can escape half of a surrogate pair, which UTF-8 cannot encode.
_SURROGATE = re.compile("[\ud800-\udfff]")


class Record(NamedTuple):
    """One object of the array: its number, from 0, and byte offsets `[start, end)`."""

    path: Path
    number: int
    start: int
    end: int
    fields: dict[str, Any]

    @property
    def name(self) -> str:
        """File, number and id of the record, for messages."""
        ids = [repr(self.fields[key]) for key in ("id", "question_id") if key in self.fields]
        return f"{self.path}, record {self.number}" + (f" (id {ids[0]})" if ids else "")

    def text(self, value: object, what: str) -> str:
        """`value`, checked to be text that can be encoded.

        Raises:
            ConfigError: It is not a string, or contains half of a surrogate pair.
        """
        if isinstance(value, str) and not _SURROGATE.search(value):
            return value
        raise ConfigError(
            f"{self.name}: expected {what} to be text, got {value!r:.80}; correct or remove "
            "the record"
        )


def stream_records(path: Path, member: str | None = None) -> Iterator[Record]:
    """The records of a JSON array of objects; only one window of the file is in memory.

    Args:
        path: The JSON file.
        member: Key of the array in the file's object; None if the file is the array.

    Raises:
        ConfigError: The file cannot be read, is not UTF-8, is not such JSON, or is truncated.
    """
    try:
        with path.open("rb") as file:
            window = _ReadWindow(file, path)
            if member is not None:
                _find_member(window, member)
            window.take("[")
            number = 0
            # An empty array has no record before its bracket.
            delimiter = window.take("]") if window.peek() == "]" else ","
            while delimiter == ",":
                if window.peek() != "{":
                    window.fail("a record in braces")
                start, end, fields = window.value()
                yield Record(path, number, start, end, fields)
                number += 1
                delimiter = window.take(",]")
            # Other keys may follow the array if it is a member.
            if member is None and window.peek():
                window.fail("the end of the file after its array")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"expected a readable JSON file in UTF-8 at {path}, got {error}; check path, "
            "permissions and encoding"
        ) from error


def _find_member(window: _ReadWindow, member: str) -> None:
    """Advance to the value of a key of the outermost object."""
    window.take("{")
    while True:
        if window.peek() != '"':
            window.fail(f"the key {member!r}")
        _, _, key = window.value()
        window.take(":")
        if key == member:
            return
        window.peek()  # `raw_decode` skips no white space
        window.value()
        if window.take(",}") == "}":
            window.fail(f"the key {member!r} before the object's end")


class _ReadWindow:
    """A part of the file as text, with the position in that text and its byte offset."""

    def __init__(self, file: BinaryIO, path: Path) -> None:
        self._file = file
        self._path = path
        self._decoder = codecs.getincrementaldecoder("utf-8")()
        self._parser = json.JSONDecoder()
        self._text = ""
        self._at = 0
        # A byte order mark is not JSON, but offsets count it.
        self._byte = len(codecs.BOM_UTF8) if file.read(3) == codecs.BOM_UTF8 else 0
        file.seek(self._byte)

    def peek(self) -> str:
        """Advance to the next character that is not white space and return it; empty at the end."""
        while True:
            spaces = _SPACE.match(self._text, self._at)
            self._advance(self._at if spaces is None else spaces.end())
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._fill():
                return ""

    def take(self, allowed: str) -> str:
        """Consume and return the next character, which must be one of `allowed`."""
        character = self.peek()
        if not character or character not in allowed:
            self.fail(" or ".join(map(repr, allowed)))
        self._advance(self._at + 1)
        return character

    def value(self) -> tuple[int, int, Any]:
        """Consume the JSON value at the position: start and end in bytes, and the value."""
        value: Any = None
        while True:
            fault = ""
            try:
                value, end = self._parser.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                fault, end = f"{error.msg} {error.pos - self._at} characters on", len(self._text)
            except (ValueError, RecursionError) as error:  # too many digits, too many brackets
                fault, end = str(error), len(self._text)
            # A value that ends with the window may be incomplete, such as 12 of 123: read on.
            too_long = len(self._text) - self._at > MAX_RECORD_CHARS
            if end < len(self._text) or too_long or not self._fill():
                break
        if fault:
            self.fail(f"valid JSON ({fault})")
        start = self._byte
        self._advance(end)
        return start, self._byte, value

    def fail(self, expected: str) -> NoReturn:
        """Raise ConfigError for the text at the position."""
        actual = self._text[self._at : self._at + 40]
        raise ConfigError(
            f"{self._path}, byte {self._byte}: expected {expected}, got "
            f"{repr(actual) if actual else 'the end of the file'}; "
            "fetch the file again or correct it"
        )

    def _advance(self, position: int) -> None:
        passed = self._text[self._at : position]
        # Bytes are counted; ASCII text has as many as characters.
        self._byte += len(passed) if passed.isascii() else len(passed.encode())
        self._at = position

    def _fill(self) -> bool:
        """Read on and drop the text before the position; False at the end of the file."""
        rest = self._text[self._at :]
        # At least doubled each time, so that the time for a long record is linear in its length.
        data = self._file.read(max(WINDOW_BYTES, len(rest)))
        # The incremental decoder holds back a character that the window cuts.
        more = self._decoder.decode(data, final=not data)
        if data:
            self._text, self._at = rest + more, 0
        return bool(data)
