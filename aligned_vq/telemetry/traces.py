"""Opens traces: to an OpenTelemetry collector where an endpoint is given, else nowhere."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from aligned_vq.errors import ConfigError
from aligned_vq.telemetry.spans import NO_TRACES, Traces


def check_endpoint(endpoint: str | None) -> None:
    """ConfigError unless spans can be sent there: a URL with the extra installed, or None."""
    if endpoint is None:
        return
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ConfigError(
            f"expected the URL of an OTLP/gRPC collector for traces, got {endpoint!r}; write "
            "http://HOST:4317, or https:// for TLS"
        )
    try:
        found = find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise ConfigError(
            "expected OpenTelemetry to be installed for traces, got none; run "
            "`pip install 'aligned-vq[tracing]'`, or leave traces out"
        )


def open_traces(endpoint: str | None, service: str) -> Traces:
    """Traces that go to an OTLP/gRPC collector as those of `service`; None records none.

    What the endpoint does not say is read from OpenTelemetry's environment variables: sampler,
    headers, certificate, resource attributes and so on.
    """
    if endpoint is None:
        return NO_TRACES
    from aligned_vq.telemetry.otlp import OtlpTraces

    return OtlpTraces(endpoint, service)
