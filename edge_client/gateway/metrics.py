"""Metrics of a gateway: counts, sizes and times, never the content of a request or an answer."""

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
    """The metrics of one gateway, in a separate registry.

    Args:
        in_flight: returns the number of requests in progress.
        limit: maximum of that number.
    """

    def __init__(self, in_flight: Callable[[], float], limit: int) -> None:
        # Not prometheus-client's global registry, in which a second gateway would clash.
        registry = self._registry = CollectorRegistry()
        ProcessCollector(registry=registry)  # memory, CPU time, file descriptors
        self.requests = Counter(
            "avq_gateway_requests",
            "Requests by route and outcome: ok, cancelled, or the code of the error.",
            ["route", "outcome"],
            registry=registry,
        )
        self.callers = Counter(
            "avq_gateway_caller_requests",
            "Requests by the name of the caller's key, and outcome.",
            ["caller", "outcome"],
            registry=registry,
        )
        self._answer_seconds = Histogram(
            "avq_gateway_answer_seconds",
            "Time from the request to the last token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._first_token_seconds = Histogram(
            "avq_gateway_first_token_seconds",
            "Time from the request to the first token.",
            buckets=_SECONDS,
            registry=registry,
        )
        self._sent_bytes = Counter(
            "avq_gateway_sent_bytes",
            "Bytes of messages sent to the cloud.",
            registry=registry,
        )
        self._payload_bytes = Counter(
            "avq_gateway_payload_bytes", "Bytes of payloads sent to the cloud.", registry=registry
        )
        self._tokens = Counter(
            "avq_gateway_tokens", "Prompt and completion tokens.", ["kind"], registry=registry
        )
        self._classifications = Counter(
            "avq_gateway_classifications",
            "Images classified on this machine, by modality.",
            ["modality"],
            registry=registry,
        )
        self._classify_seconds = Histogram(
            "avq_gateway_classify_seconds",
            "Time of the classifier's image encoder.",
            buckets=_SECONDS,
            registry=registry,
        )
        in_flight_gauge = Gauge("avq_gateway_in_flight", "Requests in progress.", registry=registry)
        in_flight_gauge.set_function(in_flight)  # read at each scrape
        Gauge(
            "avq_gateway_in_flight_limit",
            "Maximum of concurrent requests: max_requests.",
            registry=registry,
        ).set(limit)

    def add_build_info(self, backend: str, digest: bytes) -> None:
        """Add a series of value 1, labelled with versions, backend and manifest digest."""
        Gauge(
            "avq_gateway_build_info",
            "Always 1: version, Python, the edge's backend, and the manifest of its bundle.",
            ["version", "python", "backend", "manifest"],
            registry=self._registry,
        ).labels(__version__, platform.python_version(), backend, digest.hex()).set(1)

    def add_targets(self, names: Iterable[str], is_available: Callable[[str], bool]) -> None:
        """Add a series for each target, by address; each scrape calls `is_available`."""
        up = Gauge(
            "avq_gateway_target_up",
            "1 while questions go to this cloud service, 0 while its circuit breaker is open.",
            ["target"],
            registry=self._registry,
        )
        # All series exist from the start, so that alerts see a target that was never reached.
        for name in names:
            up.labels(name).set_function(partial(is_available, name))

    def record_answer(self, details: AnswerDetails) -> None:
        """Record the sizes and timings of a complete answer."""
        self._answer_seconds.observe(details.total_ms / 1e3)
        self._first_token_seconds.observe(details.first_token_ms / 1e3)
        self._sent_bytes.inc(details.message_bytes)
        self._payload_bytes.inc(details.payload_bytes)
        self._tokens.labels("prompt").inc(details.usage.prompt_tokens)
        self._tokens.labels("completion").inc(details.usage.completion_tokens)

    def record_classification(self, modality: str, model_ms: float) -> None:
        """Record an image that was classified."""
        self._classifications.labels(modality).inc()
        self._classify_seconds.observe(model_ms / 1e3)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        text: bytes = generate_latest(self._registry)
        return text
