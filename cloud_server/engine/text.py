"""Token ids to text, piece by piece."""

from __future__ import annotations

from typing import Any

_INCOMPLETE = "\ufffd"  # a character whose bytes are not all there yet


class TextStream:
    """Turns a growing list of token ids into text that never has to be taken back.

    A window of the last tokens is decoded twice, with and without the newest ones: what the newest
    add is new text. Joined, the pieces equal the decoded whole.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
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
