"""Writes a question to an exchange, with the payload of its image if the service needs it."""

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


class QuestionSender:
    """Sends a question, again for each retry; its image is encoded at most once.

    Args:
        question: the message to send.
        image: encoded only if the service needs the payload; None for a text-only question.
    """

    def __init__(self, question: Question, image: PendingImage | None) -> None:
        self.question = question
        self.edge = Timings()
        """Stages of the encoding, even if it ran for an earlier question; empty if the service
        needed no payload."""
        self.payload_bytes = 0
        """Size of the payload body sent in the last exchange."""
        self._image = image
        self._payload: Payload | None = None

    def send_question(self, exchange: Exchange, span: Span) -> None:
        """Send the question, and its payload unless it has none or names it by digest. The first
        part of the payload goes in the message of the question."""
        self.payload_bytes = 0
        question = self.question
        without_payload = question.text_only or question.image_digest
        parts = iter(()) if without_payload else self._payload_parts(span)
        exchange.send(pb.AskRequest(open=convert.question_to_proto(question, next(parts, None))))
        # With a digest the stream stays open: the service may answer that it needs the payload.
        if not question.image_digest:
            _send_rest(exchange, parts)

    def send_payload(self, exchange: Exchange, span: Span) -> None:
        """Send the payload whose digest the service did not have."""
        _send_rest(exchange, self._payload_parts(span))

    def _payload_parts(self, span: Span) -> Iterator[pb.PayloadPart]:
        if self._payload is None:
            assert self._image is not None  # only questions with an image have a payload
            start_ns = time.perf_counter_ns()
            self._payload, self.edge = self._image.encoded()
            # Stages longer than this call belong to an encoding for an earlier question.
            if self.edge.total_ns() <= time.perf_counter_ns() - start_ns:
                span.stages(self.edge.stages_ns)
        self.payload_bytes = len(self._payload.body)
        span.note({"payload_bytes": self.payload_bytes})
        return convert.payload_to_parts(self._payload)


def _send_rest(exchange: Exchange, parts: Iterator[pb.PayloadPart]) -> None:
    for part in parts:
        exchange.send(pb.AskRequest(payload=part))
    exchange.finish()
