"""Token ids to text, piece by piece."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

_INCOMPLETE = "\ufffd"  # a character whose bytes are not all there yet


class TextStream:
    """Turns a growing list of token ids into text that never has to be taken back.

    A window of the last tokens is decoded twice, with and without the newest ones: what the newest
    add is new text. Joined, the pieces equal the decoded whole.
    """

    def __init__(self, tokenizer: Any) -> None:
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # What transformers adds around its backend takes longer than the decoding.
        plain = backend is not None and not tokenizer.clean_up_tokenization_spaces
        self._tokenizer: Any = backend if plain else tokenizer
        self._ids: list[int] = []
        self._window = 0
        self._told = 0
        self._started = False

    def push(self, token_id: int, last: bool = False) -> str:
        """Text that became certain with this token; may be empty."""
        self._ids.append(token_id)
        before = self._decode(self._ids[self._window : self._told])
        now = self._decode(self._ids[self._window :])
        if now.endswith(_INCOMPLETE) and not last:
            return ""
        new = now[len(before) :]
        self._window, self._told = self._told, len(self._ids)
        if not self._started:  # templates end without a space, so answers begin with one
            new = new.lstrip()
            self._started = bool(new)
        return new

    def _decode(self, ids: list[int]) -> str:
        text: str = self._tokenizer.decode(ids, skip_special_tokens=True)
        return text


class StoppedText(NamedTuple):
    """Text that may be told, and whether a stop text came behind it."""

    text: str
    stopped: bool


class StopTexts:
    """Ends an answer before the first stop text, and holds back what might be the start of one.

    Args:
        stops: none of them empty.
    """

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = stops
        self._held = ""

    def push(self, piece: str, last: bool = False) -> StoppedText:
        """What became certain with this piece; all that is left with the last."""
        text = self._held + piece
        found = [place for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            self._held = ""
            return StoppedText(text[: min(found)], True)
        keep = 0 if last else self._start_of_a_stop(text)
        self._held = text[len(text) - keep :]
        return StoppedText(text[: len(text) - keep], False)

    def _start_of_a_stop(self, text: str) -> int:
        """Characters at the end of the text that a stop text begins with."""
        longest = min(len(text), max(map(len, self._stops), default=1) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(text[-length:]) for stop in self._stops):
                return length
        return 0
