"""Spans: how long each part of a question took, on both sides.

What is defined here records nothing; `otlp` does, and is imported only where an endpoint is given.
A span holds times, counts and names, never a question, an answer, a payload or its digest.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, Self

Kind = Literal["internal", "client", "server"]
Fields = Mapping[str, str | int | float | bool]
Metadata = tuple[tuple[str, str], ...]

CANCELLED = "cancelled"
"""How a span ends whose caller went away: not an error."""


class Span:
    """A stretch of work that `with` ends; this one is not recorded."""

    metadata: Metadata = ()
    """Carries its context to the other side: W3C's traceparent, 66 bytes, or nothing."""
    trace_id: str = ""
    """32 hex digits, or nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.end(error)

    def child(self, name: str, kind: Kind = "internal") -> Span:
        """A part of this one that starts now."""
        return self

    def stages(self, stages_ns: Mapping[str, int]) -> None:
        """Parts of this one that ran one after another; the last ended just now."""

    def note(self, fields: Fields) -> None:
        """Attributes: numbers, and names of our own. What a user sent is none of them."""

    def end(self, error: BaseException | str | None = None) -> None:
        """End it, once. Of an error its kind is told and no more: its words may be a user's."""


class Traces:
    """Starts spans; this one records none."""

    def start(self, name: str) -> Span:
        """A span of our own, below the one that the program is in if there is one."""
        return Span()

    def join(self, name: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """A span that goes on where the caller's metadata says; without that, one of our own."""
        return Span()

    def close(self) -> None:
        """Send what is left, within a few seconds."""


NO_TRACES = Traces()
