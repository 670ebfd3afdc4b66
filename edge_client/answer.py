"""What a question gives back."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from aligned_vq.answers import FinishReason, Timings, Usage


@dataclass(frozen=True)
class AnswerDetails:
    """How an answer came about."""

    finish_reason: FinishReason
    usage: Usage
    token_ids: tuple[int, ...] = field(repr=False)
    payload_bytes: int
    """Body of the image's payload, as coded; 0 when only its digest was sent."""
    message_bytes: int
    """All gRPC messages sent for this question, before HTTP/2 and TLS framing."""
    edge: Timings
    cloud: Timings
    first_token_ms: float
    """From the call to the first piece of text."""
    total_ms: float
    attempts: int = 1
    target: str = ""
    """Address of the service that answered."""

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures; times in milliseconds."""
        edge, cloud = (
            {stage: ns / 1e6 for stage, ns in side.stages_ns.items()}
            for side in (self.edge, self.cloud)
        )
        plain = asdict(self)
        plain["token_ids"] = list(self.token_ids)
        return {**plain, "edge": edge, "cloud": cloud}


class Answer(str):
    """The answer's text, with `details` beside it. Compares, prints and slices as a string."""

    __slots__ = ("details",)
    details: AnswerDetails

    def __new__(cls, text: str, details: AnswerDetails) -> Answer:
        """An answer of some text."""
        answer = super().__new__(cls, text)
        answer.details = details
        return answer

    @property
    def usage(self) -> Usage:
        """Tokens read and written."""
        return self.details.usage

    @property
    def timings(self) -> Timings:
        """Nanoseconds per stage, the edge's first."""
        return Timings({**self.details.edge.stages_ns, **self.details.cloud.stages_ns})

    @property
    def bytes_sent(self) -> int:
        """Bytes of all messages sent for this question."""
        return self.details.message_bytes
