"""Prometheus metrics of a service. They never contain a question, an answer or a payload."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    generate_latest,
)

from aligned_vq import __version__
from aligned_vq.answers import TokenChunk
from cloud_server.decode.image_store import ImageSource

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
# 866 bytes are 577 tokens of 12 bits, the most that the reference bundle sends.
BODY_BYTES = (128, 256, 384, 512, 640, 768, 866, 1024, 2048, 16_384)


class Metrics:
    """The metrics in a registry per service, as tests run several services in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, file descriptors
        self.questions = Counter(
            "avq_questions", "Questions by outcome.", ["outcome"], registry=self.registry
        )
        self.seconds = self._histogram(
            "question_seconds", "From the first message to the last token.", SECONDS
        )
        self.first_token = self._histogram(
            "first_token_seconds", "From the first message to the first token.", SECONDS
        )
        self.stages = Histogram(
            "avq_stage_seconds",
            "Time of a question in one stage.",
            ["stage"],
            buckets=SECONDS,
            registry=self.registry,
        )
        self.payload = self._histogram("payload_bytes", "Bodies of payloads received.", BODY_BYTES)
        self.images = Counter(
            "avq_images",
            "Questions by the source of their image: held in the cache, decoded, or none.",
            ["source"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "avq_tokens", "Prompt and completion tokens.", ["kind"], registry=self.registry
        )
        self.engine_retries = Counter(
            "avq_engine_retries",
            "Questions, or rests of answers, that were retried on another engine.",
            registry=self.registry,
        )
        self.decode_batch = self._histogram(
            "decode_batch_size", "Payloads of one decode pass.", BATCHES
        )
        self.engine_batch = self._histogram(
            "engine_batch_size", "Answers of one forward pass.", BATCHES
        )

    def gauge(self, name: str, description: str, value: Callable[[], float]) -> None:
        """Register a gauge whose value is computed at every scrape."""
        Gauge(f"avq_{name}", description, registry=self.registry).set_function(value)

    def gauges(
        self, name: str, description: str, label: str, values: Mapping[str, Callable[[], float]]
    ) -> None:
        """Register gauges of one name, by the value of a label."""
        gauge = Gauge(f"avq_{name}", description, [label], registry=self.registry)
        for label_value, value in values.items():
            gauge.labels(label_value).set_function(value)

    def build_info(self, engine: str, digests: Iterable[bytes]) -> None:
        """Register the build info: one series of value 1 for each served manifest digest."""
        info = Gauge(
            "avq_build_info",
            "Always 1: version, Python, engine, and the served manifest.",
            ["version", "python", "engine", "manifest"],
            registry=self.registry,
        )
        for digest in digests:
            info.labels(__version__, platform.python_version(), engine, digest.hex()).set(1)

    def _histogram(self, name: str, description: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"avq_{name}", description, buckets=buckets, registry=self.registry)

    def answered(self, last: TokenChunk, image: ImageSource) -> None:
        """Count an answer by its last chunk and the source of its image."""
        self.images.labels(image).inc()
        if last.timings:
            for stage, duration_ns in last.timings.stages_ns.items():
                self.stages.labels(stage).observe(duration_ns / 1e9)
        if last.usage:
            self.tokens.labels("prompt").inc(last.usage.prompt_tokens)
            self.tokens.labels("completion").inc(last.usage.completion_tokens)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        text: bytes = generate_latest(self.registry)
        return text
