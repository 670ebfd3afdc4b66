"""Opening of traces to an OpenTelemetry collector, if one is configured."""

from __future__ import annotations

from importlib.util import find_spec
from urllib.parse import urlsplit

from aligned_vq.errors import ConfigError
from aligned_vq.telemetry.spans import NO_TRACES, Traces


def check_endpoint(endpoint: str | None) -> None:
    """Raise ConfigError unless `endpoint` is None, or a URL and OpenTelemetry is installed."""
    if endpoint is None:
        return
    try:
        url = urlsplit(endpoint)
        usable = url.scheme in ("http", "https") and bool(url.hostname) and url.port != 0
    except ValueError:  # a port out of range
        usable = False
    if not usable:
        raise ConfigError(
            f"expected the URL of an OTLP/gRPC collector for traces, got {endpoint!r}; write "
            "http://HOST:4317, or https:// for TLS"
        )
    try:
        exporter = find_spec("opentelemetry.exporter.otlp.proto.grpc")
    except ModuleNotFoundError:  # a parent package is missing
        exporter = None
    if exporter is None:
        raise ConfigError(
            "expected OpenTelemetry to be installed for traces, got no installation; run "
            "`pip install 'aligned-vq[tracing]'`, or leave traces out"
        )


def open_traces(endpoint: str | None, service: str) -> Traces:
    """Traces of `service`, sent to an OTLP/gRPC collector; `endpoint` None: not recorded.

    Sampler, headers, certificate, resource attributes and other settings are read from
    OpenTelemetry's environment variables.
    """
    if endpoint is None:
        return NO_TRACES
    from aligned_vq.telemetry.otlp import OtlpTraces

    return OtlpTraces(endpoint, service)
