"""Settings of the gateway; every field is also an option of `edge-client serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aligned_vq.errors import ConfigError

KEY_VARIABLE = "AVQ_GATEWAY_KEY"


@dataclass(frozen=True)
class GatewayConfig:
    """Where to listen, for whom, and within which limits.

    Args:
        host: address to bind; beyond loopback only with an API key, or with `keyless`.
        port: TCP port, 0 lets the system choose.
        api_key_file: file with the key that callers must give and nothing else; left out, the
            environment variable AVQ_GATEWAY_KEY is looked at. Without a key everybody on this
            machine may ask.
        keyless: listen beyond loopback without a key; for a container whose port is published on
            this machine only. Requests must name this machine in their Host header there too.
        model_name: what the model is called here; left out, what the bundle calls it.
        max_body_mib: largest request.
        max_requests: requests answered at the same time, each of up to `max_body_mib` in memory;
            one more is refused as overloaded.
        body_seconds: longest wait for a whole request.
        stall_seconds: how long a client may leave an answer unread before it is hung up.
        drain_seconds: time running answers get to finish after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    keyless: bool = False
    model_name: str | None = None
    max_body_mib: int = 32
    max_requests: int = 16
    body_seconds: float = 30.0
    stall_seconds: float = 20.0
    drain_seconds: float = 10.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be 0 to 65535, got {self.port}; choose another")
        for name in ("max_body_mib", "max_requests", "body_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}; raise it")
        if self.drain_seconds < 0:
            raise ConfigError(f"drain_seconds must not be negative, got {self.drain_seconds}")
