"""What operators see: counts and times, never a question, an answer or a payload."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

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

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 120)
BATCHES = (1, 2, 4, 8, 16, 32, 64)
BODY_BYTES = (128, 256, 384, 512, 640, 768, 866, 1024, 2048, 16_384)

ImageSource = Literal["held", "decoded", "none"]


class Metrics:
    """One registry per service, so that several can live in a process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)  # memory, CPU time, file descriptors
        self.questions = Counter(
            "avq_questions", "Questions by how they ended.", ["outcome"], registry=self.registry
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
            "Questions by their image: held from before, decoded, or none.",
            ["source"],
            registry=self.registry,
        )
        self.tokens = Counter(
            "avq_tokens", "Tokens read and written.", ["kind"], registry=self.registry
        )
        self.engine_retries = Counter(
            "avq_engine_retries",
            "Questions, or rests of answers, that were asked of another engine.",
            registry=self.registry,
        )
        self.decode_batch = self._histogram(
            "decode_batch_size", "Payloads of one decode pass.", BATCHES
        )
        self.engine_batch = self._histogram(
            "engine_batch_size", "Answers of one forward pass.", BATCHES
        )

    def gauge(self, name: str, words: str, value: Callable[[], float]) -> None:
        """Something that is looked up when it is asked for."""
        Gauge(f"avq_{name}", words, registry=self.registry).set_function(value)

    def gauges(
        self, name: str, words: str, label: str, values: Mapping[str, Callable[[], float]]
    ) -> None:
        """Several of one kind, by the value of a label."""
        own = Gauge(f"avq_{name}", words, [label], registry=self.registry)
        for each, value in values.items():
            own.labels(each).set_function(value)

    def build_info(self, engine: str, digests: Iterable[bytes]) -> None:
        """What serves: one series of value 1 for each manifest, by the manifest's digest."""
        info = Gauge(
            "avq_build_info",
            "Always 1: version, Python, engine, and the manifest served.",
            ["version", "python", "engine", "manifest"],
            registry=self.registry,
        )
        for digest in digests:
            info.labels(__version__, platform.python_version(), engine, digest.hex()).set(1)

    def _histogram(self, name: str, words: str, buckets: Sequence[float]) -> Histogram:
        return Histogram(f"avq_{name}", words, buckets=buckets, registry=self.registry)

    def answered(self, last: TokenChunk, image: ImageSource) -> None:
        """Take in the end of an answer, and where its image came from."""
        self.images.labels(image).inc()
        if last.timings:
            for stage, spent_ns in last.timings.stages_ns.items():
                self.stages.labels(stage).observe(spent_ns / 1e9)
        if last.usage:
            self.tokens.labels("prompt").inc(last.usage.prompt_tokens)
            self.tokens.labels("completion").inc(last.usage.completion_tokens)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        found: bytes = generate_latest(self.registry)
        return found
