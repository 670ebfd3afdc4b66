"""Settings of an edge client; every field is also a command-line option."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from aligned_vq.errors import ConfigError
from protos.traces import check_endpoint


@dataclass(frozen=True)
class EdgeConfig:
    """Deadlines, retries, precision, and how client and service show who they are.

    Args:
        connect_seconds: longest wait for a connection.
        first_token_seconds: longest wait for the first piece of the answer, once connected.
        total_seconds: longest wait for the whole answer, retries included.
        attempts: tries of one question; only failures before the first piece of text are retried.
        backoff_seconds: wait before the first retry; doubles with every further one.
        dtype: of the vision prefix; bfloat16 is faster where the processor has it.
        remembered_images: payloads kept so that a follow-up question sends 16 bytes.
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
    dtype: Literal["float32", "bfloat16"] = "float32"
    remembered_images: int = 8
    tls: bool = False
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    server_name: str | None = None
    token_file: Path | None = None
    traces: str | None = None

    def __post_init__(self) -> None:
        for name in ("connect_seconds", "first_token_seconds", "total_seconds", "attempts"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}")
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
