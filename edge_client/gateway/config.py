"""Settings of the gateway; every field is also an option of `edge-client serve`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from aligned_vq.errors import ConfigError

KEY_VARIABLE = "AVQ_GATEWAY_KEY"


@dataclass(frozen=True)
class GatewayConfig:
    """Address, keys, quotas and limits of the gateway.

    Args:
        host: address to bind; beyond loopback only with an API key, or with `keyless`.
        port: TCP port; 0 lets the system choose.
        api_key_file: file that holds the API key of all callers and nothing else; default: the
            environment variable AVQ_GATEWAY_KEY. Without a key every program on this machine has
            access.
        api_keys: instead, YAML file with a key per caller. It maps the caller's name to the SHA-256
            of its key as 64 hex digits, or to a mapping with `sha256` and, optionally, individual
            limits `per_second`, `burst` and `at_once`. The file is read again every second: a
            removed key is rejected, and its requests in progress are cancelled. `edge-client key`
            generates a key and its line.
        requests_per_second: with api_keys: long-term rate of new requests of one caller; 0: no
            limit.
        burst: with api_keys: requests that a caller may make at once after a pause; 0: those of
            one second.
        requests_at_once: with api_keys: concurrent requests of one caller; 0: no limit. Default:
            half of max_requests, so that no caller can take every slot.
        keyless: listen beyond loopback without a key, for a container whose port is published on
            this machine only. The Host header of requests must name this machine there, too.
        model_name: name of the model in the API; default: the name in the bundle.
        classifier: directory of a classifier bundle, or `reference` for the one in this package;
            /v1/classify then recognises labels in images without the cloud. Default: no classifier.
        max_body_mib: largest request body.
        max_requests: concurrent requests, each of which may hold up to `max_body_mib` in memory;
            further ones are refused as overloaded. Requests whose image is being received or
            decoded may take at most half of them.
        body_seconds: longest wait for a complete request body.
        stall_seconds: how long a client may leave an answer unread before it is disconnected.
        drain_seconds: time for running answers to finish after SIGTERM.
    """

    host: str = "127.0.0.1"
    port: int = 8080
    api_key_file: Path | None = None
    api_keys: Path | None = None
    requests_per_second: float = 0.0
    burst: int = 0
    requests_at_once: int | None = None
    keyless: bool = False
    model_name: str | None = None
    classifier: str = ""
    max_body_mib: int = 32
    max_requests: int = 16
    body_seconds: float = 30.0
    stall_seconds: float = 20.0
    drain_seconds: float = 8.0

    def __post_init__(self) -> None:
        if not 0 <= self.port <= 65_535:
            raise ConfigError(f"port must be 0 to 65535, got {self.port}; choose another")
        for name in ("max_body_mib", "max_requests", "body_seconds", "stall_seconds"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"{name} must be positive, got {getattr(self, name)}; raise it")
        for name in ("drain_seconds", "requests_per_second", "burst", "requests_at_once"):
            if (getattr(self, name) or 0) < 0:
                raise ConfigError(f"{name} must not be negative, got {getattr(self, name)}")
        if self.burst and not self.requests_per_second:
            raise ConfigError(
                f"expected requests_per_second with burst, got burst={self.burst} alone; give both"
            )
        # Without individual keys, callers cannot be distinguished, and quotas cannot be counted.
        limits = (self.requests_per_second, self.requests_at_once)
        if self.api_keys is None and any(limits):
            raise ConfigError(
                "expected api_keys with requests_per_second and requests_at_once, got none; add "
                "api_keys, by which callers are distinguished"
            )

    @property
    def slots_per_caller(self) -> int:
        """Concurrent requests of one caller with an individual key; 0: no limit."""
        if self.requests_at_once is None:
            return max(1, self.max_requests // 2)
        return self.requests_at_once
