"""A synthetic question that checks the whole path, from the vision prefix to the engine."""

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
    """The outcome of a probe. Exactly one of `error` and `details` is set."""

    target: str
    with_image: bool
    seconds: float
    """From the question to the end of the answer, or to the failure; loading the bundle excluded,
    unless that is what failed."""
    details: AnswerDetails | None = None
    error: AlignedVQError | OSError | None = field(default=None, repr=False)

    @property
    def ok(self) -> bool:
        """Whether the question was answered."""
        return self.error is None

    def to_dict(self) -> dict[str, Any]:
        """The outcome as JSON values; times in milliseconds."""
        outcome: dict[str, Any] = {
            "ok": self.ok,
            "target": self.target,
            "image": self.with_image,
            "total_ms": 1e3 * self.seconds,
        }
        if self.error is not None:
            return {**outcome, "error": type(self.error).__name__, "message": str(self.error)}
        assert self.details is not None
        details = self.details.to_dict()
        names = ("first_token_ms", "payload_bytes", "message_bytes", "attempts", "edge", "cloud")
        selected = {name: details[name] for name in names}
        return {**outcome, "answered_by": self.details.target, **selected}


def probe(
    target: str,
    bundle: Path,
    config: EdgeConfig,
    *,
    with_image: bool = True,
    deadline_seconds: float = 10.0,
) -> ProbeResult:
    """Ask for one token; the result reports success or failure.

    Args:
        target: `host:port` of the cloud service, or several separated by commas.
        bundle: directory written by `aligned-vq export`.
        config: of the client; its timeouts are capped at the deadline.
        with_image: ask about random colour blocks, different in each probe so that no cache has
            them; else about text only, which costs the service no decoding and no cache entry.
        deadline_seconds: for the question with its retries.

    Raises:
        ConfigError: the deadline is not positive.
    """
    if not deadline_seconds > 0:
        raise ConfigError(f"deadline must be positive, got {deadline_seconds}; give seconds")
    started_at = time.monotonic()
    try:
        with EdgeClient(target, bundle, _with_deadline(config, deadline_seconds)) as client:
            started_at = time.monotonic()  # again, without the time to load the bundle
            image = _generated_image() if with_image else None
            answer = client.ask(image, QUESTION, max_tokens=MAX_TOKENS)
            seconds = time.monotonic() - started_at
    except (AlignedVQError, OSError) as error:
        return ProbeResult(target, with_image, time.monotonic() - started_at, error=error)
    return ProbeResult(target, with_image, seconds, answer.details)


def write_textfile(result: ProbeResult, path: Path) -> None:
    """Write the result, atomically, for the textfile collector of Prometheus' node exporter; the
    collector reads names that end in `.prom`.

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

    def gauge(name: str, description: str, value: float) -> None:
        Gauge(name, description, ["target"], registry=registry).labels(result.target).set(value)

    gauge("avq_probe_success", "1 if the probe's question was answered, else 0.", result.ok)
    gauge("avq_probe_seconds", "Duration of the probe's question, failed or not.", result.seconds)
    gauge("avq_probe_timestamp_seconds", "Unix time at the end of the probe.", time.time())
    if result.details is not None:
        gauge(
            "avq_probe_first_token_seconds",
            "Time from the probe's question to the first token.",
            result.details.first_token_ms / 1e3,
        )
    write_to_textfile(str(path), registry)


def _with_deadline(config: EdgeConfig, seconds: float) -> EdgeConfig:
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
