"""Settings of an edge client; every field is also a command-line option."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from aligned_vq.errors import ConfigError
from aligned_vq.images.formats import DECODE_SECONDS, DEFAULT_FORMATS, check_formats
from aligned_vq.telemetry.traces import check_endpoint
from edge_client.backends.base import BackendChoice, Precision


@dataclass(frozen=True)
class EdgeConfig:
    """Deadlines, retries, precision, image decoding and credentials of a client.

    Args:
        connect_seconds: deadline for a connection.
        first_token_seconds: deadline for the first piece of the answer, once connected.
        total_seconds: deadline for the whole answer, retries included.
        attempts: attempts at one question; only failures before the first piece of text are
            retried. Connections lost within `connect_seconds` do not count, unless this is 1.
        backoff_seconds: wait before the first retry; doubles with every further one.
        failures: consecutive failures of a target that open its circuit breaker; it closes after a
            successful health check and an answer.
        pause_seconds: wait before the first health check of such a target; doubles up to 10 s.
        silence_seconds: time without a response after which a target's health is checked; if it is
            unhealthy, its unanswered questions move to another target.
        backend: what runs the vision prefix and the codec: onnx (ONNX Runtime, no torch needed),
            torch, or auto: onnx if the bundle has a graph and onnxruntime is installed, else torch.
        dtype: precision of the vision prefix; bfloat16 needs torch, and is faster on processors
            that support it.
        threads: compute threads; 0: the backend's default. With torch, of the whole process.
        remembered_images: number of cached payloads; a follow-up question about one of these
            images sends 16 bytes.
        image_formats: formats of files and encoded bytes that may be opened, from AVIF, BMP, GIF,
            JPEG, JPEG2000, PNG, PPM, TIFF and WEBP.
        isolate_images: decode files and encoded bytes in separate processes with limits of time
            and memory, for images from untrusted sources. The first image then takes some tenths
            of a second more. Not on Windows; memory is bounded on Linux only. The command line and
            the gateway always do it.
        image_seconds: longest decoding time of an image in such a process.
        tls: encrypt, and connect only to a service with a valid certificate.
        ca: PEM file of the authority that signed the service's certificate; default: the public
            authorities in gRPC's list.
        certificate: PEM file of this client's certificate and its chain, for services that
            require one.
        key: PEM file of that certificate's private key, without a passphrase.
        server_name: name in the service's certificate if it differs from the address.
        token_file: file that holds this client's token and nothing else; default: the environment
            variable AVQ_EDGE_TOKEN.
        traces: URL of an OTLP/gRPC collector for OpenTelemetry traces, such as
            http://localhost:4317; sampler, headers and the rest follow OpenTelemetry's environment
            variables. Default: no traces, and no trace headers.
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
            raise ConfigError(
                "expected a system with fork for isolate_images, got one without; leave it out"
            )
        check_formats(self.image_formats)
        if self.threads < 0:
            raise ConfigError(f"threads must be 0 or more, got {self.threads}")
        if self.backoff_seconds < 0 or self.remembered_images < 0:
            raise ConfigError("backoff_seconds and remembered_images must not be negative")
        if (self.certificate is None) != (self.key is None):
            missing = "key" if self.key is None else "certificate"
            raise ConfigError(f"expected certificate and key, got one of them; add {missing}")
        # Without tls these fields would have no effect: the caller would believe to be protected.
        for name in ("ca", "certificate", "server_name"):
            if getattr(self, name) is not None and not self.tls:
                raise ConfigError(
                    f"expected tls with {name}, got {name} alone; add tls, or leave {name} out"
                )
        check_endpoint(self.traces)
