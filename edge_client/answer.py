"""The answer to a question, with sizes and timings."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from aligned_vq.answers import FinishReason, Timings, Usage


@dataclass(frozen=True)
class AnswerDetails:
    """Sizes, timings and token counts of an answer."""

    finish_reason: FinishReason
    usage: Usage
    token_ids: tuple[int, ...] = field(repr=False)
    payload_bytes: int
    """Size of the payload body; 0 if only the image's digest was sent."""
    message_bytes: int
    """Size of all gRPC messages sent for this question, before HTTP/2 and TLS framing."""
    edge: Timings
    cloud: Timings
    first_token_ms: float
    """From the call to the first piece of text."""
    total_ms: float
    attempts: int = 1
    target: str = ""
    """Address of the service that answered."""

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON values; times in milliseconds."""
        edge, cloud = (
            {stage: ns / 1e6 for stage, ns in timings.stages_ns.items()}
            for timings in (self.edge, self.cloud)
        )
        fields = asdict(self)
        # A list, as after a round trip through JSON.
        fields["token_ids"] = list(self.token_ids)
        return {**fields, "edge": edge, "cloud": cloud}


class Answer(str):
    """The text of an answer, a `str` with the additional attribute `details`."""

    __slots__ = ("details",)
    details: AnswerDetails

    def __new__(cls, text: str, details: AnswerDetails) -> Answer:
        """An answer with this text; `str` is immutable, so `__init__` comes too late."""
        answer = super().__new__(cls, text)
        answer.details = details
        return answer

    @property
    def usage(self) -> Usage:
        """Prompt and completion tokens."""
        return self.details.usage

    @property
    def timings(self) -> Timings:
        """Nanoseconds per stage, those of the edge first."""
        return Timings({**self.details.edge.stages_ns, **self.details.cloud.stages_ns})

    @property
    def bytes_sent(self) -> int:
        """Size of all gRPC messages sent for this question."""
        return self.details.message_bytes
