"""Settings of an edge client; every field is also a command-line option."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aligned_vq.errors import ConfigError
from aligned_vq.images.formats import DECODE_SECONDS, DEFAULT_FORMATS, FORMATS
from aligned_vq.telemetry.traces import check_endpoint
from edge_client.backends.base import BackendChoice, Precision


@dataclass(frozen=True)
class EdgeConfig:
    """Deadlines, retries, precision, and how client and service show who they are.

    Args:
        connect_seconds: longest wait for a connection.
        first_token_seconds: longest wait for the first piece of the answer, once connected.
        total_seconds: longest wait for the whole answer, retries included.
        attempts: tries of one question; only failures before the first piece of text are retried.
            Lost connections do not count for the first `connect_seconds`, unless this is 1.
        backoff_seconds: wait before the first retry; doubles with every further one.
        failures: of a target in a row, after which it is left alone until it says that it is well.
        pause_seconds: wait before it is asked that for the first time; doubles up to 10 s.
        silence_seconds: without a word for so long a target is asked whether it is well, and if
            not, its questions go to another.
        backend: what runs the vision prefix and the codec: onnx (ONNX Runtime, no torch needed),
            torch, or auto: onnx where the bundle has a graph and onnxruntime is there, else torch.
        dtype: of the vision prefix; bfloat16, which takes torch, is faster where the processor has
            it.
        threads: that compute; 0 leaves it to the backend. With torch, of the whole process.
        remembered_images: payloads kept so that a follow-up question sends 16 bytes.
        image_formats: of files and encoded bytes that may be opened, from AVIF, BMP, GIF, JPEG,
            JPEG2000, PNG, PPM, TIFF and WEBP.
        isolate_images: decode files and encoded bytes in processes with limits of time and memory
            that can be killed, in place of this process: for images that strangers made. The first
            image then takes some tenths of a second more. Not on Windows; memory is bounded on
            Linux only. The command line and the gateway always do it.
        image_seconds: longest time that an image may take to decode there.
        tls: encrypt, and speak only to a service whose certificate can be checked.
        ca: PEM file of the authority that signed the service's certificate; left out, gRPC's own
            list of public authorities.
        certificate: PEM file of this client's certificate and its chain, for services that ask.
        key: PEM file of that certificate's key, without a passphrase.
        server_name: name in the service's certificate where it is not that of the address.
        token_file: file with this client's token and nothing else; left out, the environment
            variable AVQ_EDGE_TOKEN is looked at.
        traces: URL of an OTLP/gRPC collector for OpenTelemetry's traces, such as
            http://localhost:4317; sampler, headers and the rest follow OpenTelemetry's environment
            variables. Left out, nothing is recorded and no header sent.
    """

    connect_seconds: float = 10.0
    first_token_seconds: float = 60.0
    total_seconds: float = 120.0
    attempts: int = 3
    backoff_seconds: float = 0.2
    failures: int = 3
    pause_seconds: float = 1.0
    silence_seconds: float = 5.0
    backend: BackendChoice = "auto"
    dtype: Precision = "float32"
    threads: int = 0
    remembered_images: int = 8
    image_formats: tuple[str, ...] = DEFAULT_FORMATS
    isolate_images: bool = False
    image_seconds: float = DECODE_SECONDS
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None
    traces: str | None = None

    def __post_init__(self) -> None:
        positive = ("connect_seconds", "first_token_seconds", "total_seconds", "attempts")
        for name in (*positive, "failures", "pause_seconds", "silence_seconds", "image_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
        if self.isolate_images and not hasattr(os, "fork"):
            raise ConfigError("expected a system that forks for isolate_images; leave it out")
        unknown = [name for name in self.image_formats if name not in FORMATS]
        if unknown or not self.image_formats:
            raise ConfigError(
                f"expected image_formats from {', '.join(FORMATS)}, got "
                f"{', '.join(unknown) or 'none'}; name some of these"
            )
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 or more, got {self.threads}")
        if self.backoff_seconds < 0 or self.remembered_images < 0:
            raise ConfigError("backoff_seconds and remembered_images must not be negative")
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ConfigError(f"expected certificate and key, got one of them; give {missing} too")
        for name in ("ca", "certificate", "server_name"):
            if getattr(self, name) is not None and not self.tls:
                raise ConfigError(
                    f"expected tls beside {name}, got {name} alone; give tls, or leave it out"
                )
        check_endpoint(self.traces)
