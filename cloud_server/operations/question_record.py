"""The record of a question in logs and spans: names and numbers, never its content."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from aligned_vq.answers import FinishReason, TokenChunk
from aligned_vq.telemetry.logs import EVENT
from aligned_vq.telemetry.spans import CANCELLED, Span

ANSWERED = "answered"


class QuestionFields(TypedDict, total=False):
    """The fields that logs and spans may contain. None of them can hold a user's text."""

    outcome: str
    """answered, cancelled, cut off, timeout, bug, or the class of the error that ended it."""
    seconds: float
    identity: str
    request_id: str
    """Chosen by the client, of letters, digits and . _ : - only."""
    trace_id: str
    payload_bytes: int
    prompt_tokens: int
    completion_tokens: int
    image_cached: bool
    finish_reason: FinishReason


class QuestionRecord:
    """Collects the fields of one question while it is answered.

    Args:
        span: the question's span; `end` ends it.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self._started = time.monotonic()
        self._fields: QuestionFields = {}
        self.note(trace_id=span.trace_id)

    @property
    def extra(self) -> Mapping[str, Any]:
        """The fields so far, for the `extra` argument of a log call."""
        return {EVENT: dict(self._fields)}

    @property
    def seconds(self) -> float:
        """Since the question arrived."""
        return time.monotonic() - self._started

    def note(self, **fields: Unpack[QuestionFields]) -> None:
        """Add fields; empty strings are left out."""
        self._fields.update({name: value for name, value in fields.items() if value != ""})  # type: ignore[typeddict-item]

    def answered(self, last: TokenChunk, stages_ns: Mapping[str, int]) -> None:
        """Add the fields of the answer's last chunk, and the engine's stages to the span."""
        self.span.stages(stages_ns)
        if last.finish_reason is not None:
            self.note(finish_reason=last.finish_reason)
        if last.usage is not None:
            self.note(
                prompt_tokens=last.usage.prompt_tokens,
                completion_tokens=last.usage.completion_tokens,
                image_cached=last.usage.image_cached,
            )

    def end(self, outcome: str, identity: str | None) -> float:
        """End the span; returns the seconds that the question took."""
        seconds = self.seconds
        self.note(outcome=outcome, seconds=round(seconds, 6), identity=identity or "")
        self.span.note({name: value for name, value in self._fields.items() if name != "trace_id"})  # type: ignore[misc]
        # A cancelled question is the client's choice, not an error of the service.
        if outcome in (ANSWERED, CANCELLED):
            self.span.end()
        else:
            self.span.end(outcome)
        return seconds
