"""The interface of traces, without a recording implementation.

`otlp` records spans and is imported only if an endpoint is configured. Spans contain times, counts
and names, never questions, answers, payloads or their digests.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from types import TracebackType
from typing import Literal, Self

Kind = Literal["internal", "client", "server"]
Fields = Mapping[str, str | int | float | bool]
Metadata = tuple[tuple[str, str], ...]

CANCELLED = "cancelled"
"""Outcome of a span whose caller disconnected or cancelled; not an error."""


class Span:
    """A timed operation, ended by `with`; this base class records nothing."""

    metadata: Metadata = ()
    """Metadata that propagates the span's context: W3C's traceparent, 66 bytes, or empty."""
    trace_id: str = ""
    """32 hex digits, or empty."""

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
        """A new child span that starts now."""
        return self

    def stages(self, stages_ns: Mapping[str, int]) -> None:
        """Add child spans of consecutive stages, the last of which ends now."""

    def note(self, fields: Fields) -> None:
        """Set attributes; they must not contain user data."""

    def end(self, error: BaseException | str | None = None) -> None:
        """End the span; further calls have no effect.

        Of an error only the type is recorded, because its message may contain user data.
        """


class Traces:
    """Starts spans; this base class records none."""

    def start(self, name: str) -> Span:
        """A new span, a child of the program's current span if there is one."""
        return Span()

    def join(self, name: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """A new span in the trace that a caller's metadata names, or in a new trace."""
        return Span()

    def close(self) -> None:
        """Send pending spans, within a few seconds."""


NO_TRACES = Traces()
