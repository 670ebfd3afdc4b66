"""What operators see of a gateway: counts and times, never a question, an answer or a picture."""

from __future__ import annotations

from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from edge_client.answer import AnswerDetails

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)


class GatewayMetrics:
    """One registry for each gateway.

    Args:
        in_flight: how many requests are being answered.
    """

    def __init__(self, in_flight: Callable[[], float]) -> None:
        own = CollectorRegistry()
        self._registry = own
        self.requests = Counter(
            "avq_gateway_requests",
            "Requests by route and how they ended: ok, cancelled, or the code of the error.",
            ["route", "outcome"],
            registry=own,
        )
        self._seconds = Histogram(
            "avq_gateway_answer_seconds",
            "From the request to the last token.",
            buckets=_SECONDS,
            registry=own,
        )
        self._first = Histogram(
            "avq_gateway_first_token_seconds",
            "From the request to the first token.",
            buckets=_SECONDS,
            registry=own,
        )
        self._sent = Counter(
            "avq_gateway_sent_bytes", "Messages sent to the cloud, in bytes.", registry=own
        )
        self._payloads = Counter(
            "avq_gateway_payload_bytes", "Indices sent to the cloud, in bytes.", registry=own
        )
        self._tokens = Counter(
            "avq_gateway_tokens", "Tokens read and written.", ["kind"], registry=own
        )
        in_flight_now = Gauge("avq_gateway_in_flight", "Requests being answered.", registry=own)
        in_flight_now.set_function(in_flight)

    def answered(self, details: AnswerDetails) -> None:
        """Take in the end of an answer."""
        self._seconds.observe(details.total_ms / 1e3)
        self._first.observe(details.first_token_ms / 1e3)
        self._sent.inc(details.message_bytes)
        self._payloads.inc(details.payload_bytes)
        self._tokens.labels("prompt").inc(details.usage.prompt_tokens)
        self._tokens.labels("completion").inc(details.usage.completion_tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        found: bytes = generate_latest(self._registry)
        return found
