"""Traces without a service: what is sampled, which headers count, which settings are refused."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from aligned_vq.errors import ConfigError
from aligned_vq.telemetry import traces
from cloud_server.config import CloudConfig
from edge_client import EdgeConfig
from tests.e2e.operations.collector import Collector
from tests.e2e.raw import assert_clear

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with Collector() as listening:
        yield listening


def test_of_two_headers_neither_counts(collector: Collector) -> None:
    header = ("traceparent", f"00-{TRACE_ID}-{SPAN_ID}-01")
    opened = traces.open_traces(collector.url, "two headers")
    assert opened.join("answer", [header]).trace_id == TRACE_ID
    for pairs in ([header, header], [("traceparent", b"\xff\x00")], [("tracestate", "a=b")]):
        assert opened.join("answer", pairs).trace_id != TRACE_ID
    opened.close()


@pytest.mark.parametrize(
    ("setting", "flag", "recorded"),
    [
        (("traceidratio", "0"), "01", False),  # whatever the client wants
        (("parentbased_traceidratio", "0"), "01", False),
        (("parentbased_always_off", ""), "01", False),
        (("always_off", ""), "01", False),
        (("parentbased_always_on", ""), "00", False),
        (("always_on", ""), "00", True),
        (("parentbased_always_on", ""), "01", True),
        (("parentbased_traceidratio", "1"), "01", True),
    ],
)
def test_the_service_decides_what_it_records(
    collector: Collector,
    monkeypatch: pytest.MonkeyPatch,
    setting: tuple[str, str],
    flag: str,
    recorded: bool,
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", setting[0])
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", setting[1])
    opened = traces.open_traces(collector.url, f"sampler {setting} {flag}")
    for number in range(1, 9):  # small trace ids: those that a ratio takes first
        with opened.join("answer", [("traceparent", f"00-{number:032x}-{SPAN_ID}-{flag}")]) as span:
            span.child("part").end()
            span.stages({"stage": 5})
            assert span.trace_id == f"{number:032x}"
    opened.close()
    found = [span for span in collector.spans if span.service == f"sampler {setting} {flag}"]
    assert len(found) == (24 if recorded else 0)


@pytest.mark.parametrize(
    "endpoint", ["collector:4317", "localhost", "", "ftp://x", "http://", "http://x:99999999"]
)
def test_an_endpoint_is_a_url(endpoint: str) -> None:
    for config in (lambda: EdgeConfig(traces=endpoint), lambda: cloud_config(endpoint)):
        with pytest.raises(ConfigError, match="http://HOST:4317") as caught:
            config()
        assert_clear(str(caught.value))


def cloud_config(endpoint: str) -> CloudConfig:
    return replace(CloudConfig(Path("bundle"), "model"), traces=endpoint)


def test_without_the_extra_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(_: str) -> None:
        raise ModuleNotFoundError

    for find in (missing, lambda _: None):
        monkeypatch.setattr(traces, "find_spec", find)
        with pytest.raises(ConfigError, match=r"aligned-vq\[tracing\]") as caught:
            EdgeConfig(traces="http://localhost:4317")
        assert_clear(str(caught.value))


def test_off_imports_no_opentelemetry() -> None:
    code = """
import sys, edge_client.connection.stream
from edge_client.config import EdgeConfig
from aligned_vq.telemetry.traces import open_traces
open_traces(EdgeConfig().traces, "edge-client").start("ask").child("attempt").end()
print([name for name in sys.modules if name.startswith("opentelemetry")], end="")
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout == "[]"
