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
        api_keys: instead, YAML file that maps each caller's name to the SHA-256 of its key as 64
            hex digits, or to a mapping of that as `sha256` and limits of its own at `per_second`,
            `burst` and `at_once`. Read again every second: who is not in it any more is refused,
            and what is being answered to it ends. `edge-client key` makes a key and its line.
        requests_per_second: with api_keys: new requests of one caller, in the long run; 0 is no
            limit.
        burst: with api_keys: requests that a caller may make at once after a pause; 0 is one
            second's worth.
        requests_at_once: with api_keys: requests of one caller in progress; 0 is no limit. Left
            out, half of max_requests, so that nobody takes every place.
        keyless: listen beyond loopback without a key; for a container whose port is published on
            this machine only. Requests must name this machine in their Host header there too.
        model_name: what the model is called here; left out, what the bundle calls it.
        max_body_mib: largest request.
        max_requests: requests answered at the same time, each of up to `max_body_mib` in memory;
            one more is refused as overloaded. Half of them at most may be held by images that are
            being read or decoded.
        body_seconds: longest wait for a whole request.
        stall_seconds: how long a client may leave an answer unread before it is hung up.
        drain_seconds: time running answers get to finish after SIGTERM.
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
                f"expected requests_per_second beside burst, got burst={self.burst} alone; give "
                "both"
            )
        limits = (self.requests_per_second, self.requests_at_once)
        if self.api_keys is None and any(limits):
            raise ConfigError(
                "expected api_keys beside requests_per_second and requests_at_once, got none; "
                "callers are told apart by their keys: give them"
            )

    @property
    def places_of_one(self) -> int:
        """Requests of one caller in progress, where callers have keys; 0 is no limit."""
        if self.requests_at_once is None:
            return max(1, self.max_requests // 2)
        return self.requests_at_once
