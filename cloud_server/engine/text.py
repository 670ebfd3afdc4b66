"""Incremental detokenisation and stop texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_INCOMPLETE = "\ufffd"  # decoded for a character of which some bytes are missing


class TextStream:
    """Turns a growing list of token ids into pieces of text that are final.

    A token's text depends on its neighbours, so a window of the last tokens is decoded with and
    without the newest ones, and the difference is new. Joined, the pieces equal the decoded whole.

    Args:
        tokenizer: the checkpoint's.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # transformers' wrapper takes longer than the decoding itself, so bypass it if possible.
        plain = backend is not None and not tokenizer.clean_up_tokenization_spaces
        self._tokenizer: Any = backend if plain else tokenizer
        self._ids: list[int] = []
        self._window = 0
        self._emitted = 0
        self._started = False

    def push(self, token_id: int, last: bool = False) -> str:
        """The text that is final with this token; may be empty."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._window : self._emitted])
        now = self._decode(self._ids[self._window :])
        # Wait for the rest of a multi-byte character.
        if now.endswith(_INCOMPLETE) and not last:
            return ""
        new = now[len(before) :]
        self._window, self._emitted = self._emitted, len(self._ids)
        if not self._started:  # templates end without a space, so the first token has one
            new = new.lstrip()
            self._started = bool(new)
        return new

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class StoppedText(NamedTuple):
    """Text that is safe to emit, and whether a stop text followed it."""

    text: str
    stopped: bool


class StopTexts:
    """Ends an answer before its first stop text, and withholds text that may be the start of one.

    Args:
        stops: the stop texts, none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._withheld = ""

    def push(self, piece: str, last: bool = False) -> StoppedText:
        """The text that is safe to emit with this piece; with the last piece, all of it."""
        text = self._withheld + piece
        matches = [position for stop in self._stops if (position := text.find(stop)) >= 0]
        if matches:
            self._withheld = ""
            return StoppedText(text[: min(matches)], True)
        withhold = 0 if last else self._partial_stop_length(text)
        self._withheld = text[len(text) - withhold :]
        return StoppedText(text[: len(text) - withhold], False)

    def _partial_stop_length(self, text: str) -> int:
        """Length of the longest end of the text that is the start of a stop text."""
        # A complete stop text has matched already, so one character less is the most.
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
