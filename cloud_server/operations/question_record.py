"""What is told of a question, in logs and in spans: names and numbers, never what it says."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, TypedDict, Unpack

from aligned_vq.answers import FinishReason, TokenChunk
from aligned_vq.telemetry.logs import EVENT
from aligned_vq.telemetry.spans import CANCELLED, Span

ANSWERED = "answered"


class QuestionFields(TypedDict, total=False):
    """All that may be told. A field that could hold a user's words has no place here."""

    outcome: str
    """answered, cancelled, timeout, bug, or the class of the error it was refused with."""
    seconds: float
    identity: str
    request_id: str
    """Letters, digits and . _ : - of the client's choice."""
    trace_id: str
    payload_bytes: int
    prompt_tokens: int
    completion_tokens: int
    image_cached: bool
    finish_reason: FinishReason


class QuestionRecord:
    """Collects what may be told of one question while it is answered.

    Args:
        span: of the question; ends with it.
    """

    def __init__(self, span: Span) -> None:
        self.span = span
        self._started = time.monotonic()
        self._fields: QuestionFields = {}
        self.note(trace_id=span.trace_id)

    @property
    def extra(self) -> Mapping[str, Any]:
        """For the `extra` of a log call: what is known so far."""
        return {EVENT: dict(self._fields)}

    @property
    def seconds(self) -> float:
        """Since the question came."""
        return time.monotonic() - self._started

    def note(self, **fields: Unpack[QuestionFields]) -> None:
        """Take in what is known now; empty names are not."""
        self._fields.update({name: value for name, value in fields.items() if value != ""})  # type: ignore[typeddict-item]

    def answered(self, last: TokenChunk, stages_ns: Mapping[str, int]) -> None:
        """The answer's last chunk came, after the engine's stages."""
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
        """End the span; the seconds that the question took."""
        seconds = self.seconds
        self.note(outcome=outcome, seconds=round(seconds, 6), identity=identity or "")
        self.span.note({name: value for name, value in self._fields.items() if name != "trace_id"})  # type: ignore[misc]
        if outcome in (ANSWERED, CANCELLED):
            self.span.end()
        else:
            self.span.end(outcome)
        return seconds
