"""What operators see of a gateway: counts and times, never a question, an answer or a picture."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable
from functools import partial

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from aligned_vq import __version__
from edge_client.answer import AnswerDetails

_SECONDS = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)


class GatewayMetrics:
    """One registry for each gateway.

    Args:
        in_flight: how many requests are being answered.
        limit: how many may be.
    """

    def __init__(self, in_flight: Callable[[], float], limit: int) -> None:
        own = CollectorRegistry()
        ProcessCollector(registry=own)  # memory, CPU time, file descriptors
        self._registry = own
        self.requests = Counter(
            "avq_gateway_requests",
            "Requests by route and how they ended: ok, cancelled, or the code of the error.",
            ["route", "outcome"],
            registry=own,
        )
        self.callers = Counter(
            "avq_gateway_caller_requests",
            "Requests by the name that the caller's key has, and how they ended.",
            ["caller", "outcome"],
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
        Gauge(
            "avq_gateway_in_flight_limit",
            "Requests that may be answered at once: max_requests.",
            registry=own,
        ).set(limit)

    def build_info(self, backend: str, digest: bytes) -> None:
        """What serves: a series of value 1, with the bundle's manifest by its digest."""
        Gauge(
            "avq_gateway_build_info",
            "Always 1: version, Python, the edge's backend, and the manifest of its bundle.",
            ["version", "python", "backend", "manifest"],
            registry=self._registry,
        ).labels(__version__, platform.python_version(), backend, digest.hex()).set(1)

    def targets(self, names: Iterable[str], takes_questions: Callable[[str], bool]) -> None:
        """A series for each target, by its address; `takes_questions` is asked at every scrape."""
        up = Gauge(
            "avq_gateway_target_up",
            "1 while questions go to this cloud service, 0 while it is left out after failures.",
            ["target"],
            registry=self._registry,
        )
        for name in names:
            up.labels(name).set_function(partial(takes_questions, name))

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
