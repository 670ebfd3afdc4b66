"""Settings of a cloud process; every field is also a command-line option and a YAML key."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aligned_vq.errors import ConfigError


@dataclass(frozen=True)
class CloudConfig:
    """What to serve, where, and within which limits.

    Args:
        bundle: directory written by `aligned-vq export`.
        model: the LLaVA checkpoint, a directory in Hugging Face format or a hub id.
        revision: hub revision of the checkpoint.
        host: address to bind; only loopback until the link is encrypted.
        port: TCP port, 0 lets the system choose.
        http_port: port of /healthz, /readyz, /metrics and /v1/manifest; none unless given.
        device: where the model runs: auto, cpu, cuda or cuda:1 and so on.
        dtype: of the language model and the vision suffix; auto is float32 on a CPU, else bfloat16.
        parallel_answers: answers generated in one batch; more wait for a place.
        cache_tokens: memory for running answers, in tokens of prompt and answer together.
        prefix_cache_mib: memory for what the language model made of images asked about before.
        decode_batch: payloads decoded in one pass.
        max_in_flight: questions accepted at the same time; one more is refused as overloaded.
        max_question_chars: longest question.
        default_answer_tokens: token limit of an answer when the question sets none.
        max_answer_tokens: largest token limit a question may set.
        max_answer_seconds: longest time one question may take.
        payload_seconds: longest wait for a payload after its question was opened.
        image_cache_mib: memory for images that follow-up questions can name by digest.
        drain_seconds: time running answers get to finish after SIGTERM.
        reflection: serve gRPC reflection beside the service.
    """

    bundle: Path
    model: str
    revision: str | None = None
    host: str = "127.0.0.1"
    port: int = 50051
    http_port: int | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    parallel_answers: int = 32
    cache_tokens: int = 32_768
    prefix_cache_mib: int = 512
    decode_batch: int = 8
    max_in_flight: int = 128
    max_question_chars: int = 2000
    default_answer_tokens: int = 128
    max_answer_tokens: int = 512
    max_answer_seconds: float = 120.0
    payload_seconds: float = 20.0
    image_cache_mib: int = 256
    drain_seconds: float = 20.0
    reflection: bool = True

    def __post_init__(self) -> None:
        for name in ("port", "http_port"):
            if not 0 <= (getattr(self, name) or 0) <= 65_535:
                raise ConfigError(f"{name} must be 0 to 65535, got {getattr(self, name)}")
        for name in (
            "parallel_answers",
            "cache_tokens",
            "decode_batch",
            "max_in_flight",
            "max_question_chars",
            "default_answer_tokens",
            "max_answer_tokens",
            "max_answer_seconds",
            "payload_seconds",
        ):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("image_cache_mib", "prefix_cache_mib", "drain_seconds"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
