"""A question that nobody asked: does the whole way answer, from the vision prefix to the engine?"""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from aligned_vq.errors import AlignedVQError, ConfigError
from edge_client.answer import AnswerDetails
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig

QUESTION = "What is shown?"
MAX_TOKENS = 1
_BLOCKS, _BLOCK_PIXELS = 8, 28


@dataclass(frozen=True)
class ProbeResult:
    """How the question ended.

    Exactly one of `error` and `details` is there.
    """

    target: str
    with_image: bool
    seconds: float
    """From the question to the end of the answer, or to the failure; loading the bundle excluded,
    unless that is what failed."""
    details: AnswerDetails | None = None
    error: AlignedVQError | OSError | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Was it answered?"""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able figures; times in milliseconds."""
        found: dict[str, Any] = {
            "ok": self.ok,
            "target": self.target,
            "image": self.with_image,
            "total_ms": 1e3 * self.seconds,
        }
        if self.error is not None:
            return {**found, "error": type(self.error).__name__, "message": str(self.error)}
        assert self.details is not None
        own = self.details.to_dict()
        names = ("first_token_ms", "payload_bytes", "message_bytes", "attempts", "edge", "cloud")
        return {**found, "answered_by": self.details.target, **{name: own[name] for name in names}}


def probe(
    target: str,
    bundle: Path,
    config: EdgeConfig,
    *,
    with_image: bool = True,
    deadline_seconds: float = 10.0,
) -> ProbeResult:
    """Ask for one token; failures are in the result.

    Args:
        target: `host:port` of the cloud service, or several with commas between them.
        bundle: directory written by `aligned-vq export`.
        config: of the client; its waits are cut to the deadline.
        with_image: show random blocks of colour, new ones every time, so that the payload is
            decoded and not found in a cache; else the question is about no image, which costs the
            service no decoding and no place in its cache.
        deadline_seconds: for the question with its retries.

    Raises:
        ConfigError: the deadline is not positive.
    """
    if not deadline_seconds > 0:
        raise ConfigError(f"deadline must be positive, got {deadline_seconds}; give seconds")
    started = time.monotonic()
    try:
        with EdgeClient(target, bundle, _within(config, deadline_seconds)) as client:
            started = time.monotonic()
            image = _generated_image() if with_image else None
            answer = client.ask(image, QUESTION, max_tokens=MAX_TOKENS)
            seconds = time.monotonic() - started
    except (AlignedVQError, OSError) as error:
        return ProbeResult(target, with_image, time.monotonic() - started, error=error)
    return ProbeResult(target, with_image, seconds, answer.details)


def write_textfile(result: ProbeResult, path: Path) -> None:
    """Write the result for the textfile collector of Prometheus' node exporter, whole or not at
    all; the collector reads names that end in `.prom`.

    Raises:
        ConfigError: prometheus-client is not installed.
        OSError: the file cannot be written.
    """
    try:
        from prometheus_client import CollectorRegistry, Gauge, write_to_textfile
    except ModuleNotFoundError as error:
        raise ConfigError(
            "expected prometheus-client to write metrics, got none; install aligned-vq[gateway]"
        ) from error
    registry = CollectorRegistry()

    def gauge(name: str, words: str, value: float) -> None:
        Gauge(name, words, ["target"], registry=registry).labels(result.target).set(value)

    gauge("avq_probe_success", "1 if the probe's question was answered, else 0.", result.ok)
    gauge("avq_probe_seconds", "How long the probe's question took, failed or not.", result.seconds)
    gauge("avq_probe_timestamp_seconds", "When the probe ended, in Unix time.", time.time())
    if result.details is not None:
        gauge(
            "avq_probe_first_token_seconds",
            "From the probe's question to the first token.",
            result.details.first_token_ms / 1e3,
        )
    write_to_textfile(str(path), registry)


def _within(config: EdgeConfig, seconds: float) -> EdgeConfig:
    return replace(
        config,
        connect_seconds=min(config.connect_seconds, seconds),
        first_token_seconds=min(config.first_token_seconds, seconds),
        total_seconds=min(config.total_seconds, seconds),
    )


def _generated_image() -> Image.Image:
    colours = np.random.default_rng().integers(0, 256, (_BLOCKS, _BLOCKS, 3), np.uint8)
    side = _BLOCKS * _BLOCK_PIXELS
    return Image.fromarray(colours).resize((side, side), Image.Resampling.NEAREST)
