"""What a question sends: itself, and the payload of its image where the service needs it."""

from __future__ import annotations

import time
from collections.abc import Iterator

from aligned_vq.answers import Timings
from aligned_vq.telemetry.spans import Span
from aligned_vq.types import Payload
from edge_client.connection.exchange import Exchange
from edge_client.input.remembered_images import PendingImage
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question


class Outgoing:
    """Writes a question into one exchange after the other; its image is encoded at most once.

    Args:
        question: what is asked.
        image: encoded only if the service needs the payload; None: the question has none.
    """

    def __init__(self, question: Question, image: PendingImage | None) -> None:
        self.question = question
        self.edge = Timings()
        """Of the encoding, also of one that ran for an earlier question; empty: none was needed."""
        self.payload_bytes = 0
        """Of the body sent in the last exchange."""
        self._image = image
        self._payload: Payload | None = None

    def begin(self, exchange: Exchange, span: Span) -> None:
        """The question, and its payload unless there is none or its digest is offered. A payload of
        one part goes in the question's own message."""
        self.payload_bytes = 0
        question = self.question
        alone = question.text_only or question.image_digest
        parts = iter(()) if alone else self._parts(span)
        exchange.send(pb.AskRequest(open=convert.question_to_proto(question, next(parts, None))))
        if not question.image_digest:
            _finish(exchange, parts)

    def add_payload(self, exchange: Exchange, span: Span) -> None:
        """The payload behind a digest that the service did not know."""
        _finish(exchange, self._parts(span))

    def _parts(self, span: Span) -> Iterator[pb.PayloadPart]:
        if self._payload is None:
            assert self._image is not None  # a question about text alone has no payload
            began = time.perf_counter_ns()
            self._payload, self.edge = self._image.encoded()
            if self.edge.total_ns() <= time.perf_counter_ns() - began:
                span.stages(self.edge.stages_ns)  # else they ran for an earlier question
        self.payload_bytes = len(self._payload.body)
        span.note({"payload_bytes": self.payload_bytes})
        return convert.payload_to_parts(self._payload)


def _finish(exchange: Exchange, parts: Iterator[pb.PayloadPart]) -> None:
    for part in parts:
        exchange.send(pb.AskRequest(payload=part))
    exchange.finish()
