"""One question, one trace: from the edge over the wire to the cloud, at a real collector."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.sdk.trace import TracerProvider

from aligned_vq.errors import InvalidInput, Overloaded
from aligned_vq.telemetry import otlp
from benchmarks.harness.processes import CloudProcess
from benchmarks.links.counting_proxy import CountingProxy
from edge_client import EdgeClient, EdgeConfig
from tests.e2e.operations.collector import Collector, Exported
from tests.e2e.raw import (
    GOOD_QUESTION,
    RawClient,
    opening,
    parts,
    payload_of,
    picture,
)
from tests.edge.connection.fake_service import FakeService, failing, server, whole_answer

CLOUD_STAGES = ["receive", "unpack", "turn", "rebuild", "suffix", "projector"]
CLOUD_STAGES += ["wait", "prefill", "decode"]
QUESTIONS = 12
TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN_ID = "00f067aa0ba902b7"
BAD_HEADERS = {
    "empty": "",
    "words": "not a header at all",
    "zeros": f"00-{'0' * 32}-{SPAN_ID}-01",
    "no span": f"00-{TRACE_ID}-{'0' * 16}-01",
    "version ff": f"ff-{TRACE_ID}-{SPAN_ID}-01",
    "upper case": f"00-{TRACE_ID.upper()}-{SPAN_ID}-01",
    "too long": f"00-{TRACE_ID}-{SPAN_ID}-01-{'x' * 4000}",
    "too short": f"00-{TRACE_ID[:-1]}-{SPAN_ID}-01",
    "no hex": f"00-{'z' * 32}-{SPAN_ID}-01",
}


@contextmanager
def recording(service: FakeService, seen: list[dict[str, str]]) -> Iterator[str]:
    """A service in this process that keeps the metadata of every call."""

    class Keep(grpc.ServerInterceptor):
        def intercept_service(self, continuation: Any, details: Any) -> Any:
            seen.append({pair.key: str(pair.value) for pair in details.invocation_metadata})
            return continuation(details)

    with server(service, interceptors=[Keep()]) as target:
        yield target


def of(spans: list[Exported], trace_id: str) -> dict[str, Exported]:
    return {span.name: span for span in spans if span.trace_id == trace_id}


def test_a_question_is_one_trace_across_both_sides(
    traced: CloudProcess, collector: Collector, bundle_directory: Path
) -> None:
    config = EdgeConfig(traces=collector.url)
    with EdgeClient(traced.target, bundle_directory, config) as client:
        answer = client.ask(picture(7), GOOD_QUESTION, max_tokens=5)
        again = client.ask(picture(7), GOOD_QUESTION, max_tokens=5)
    assert again == answer
    asks = collector.wait("ask", 2)[-2:]
    for ask in asks:  # the cloud's come when it sends them
        collector.wait("answer", trace_id=ask.trace_id)
    first, second = (of(collector.spans, ask.trace_id) for ask in asks)

    assert set(first) == {"ask", "connect", "attempt", "answer", *CLOUD_STAGES} | set(
        answer.details.edge.stages_ns
    )
    assert set(second) == {"ask", "connect", "attempt", "answer", "wait", "prefill", "decode"}
    assert first["ask"].parent_id == ""
    assert first["answer"].parent_id == first["attempt"].span_id
    for name, span in first.items():
        cloud = name in CLOUD_STAGES or name == "answer"
        assert span.service == ("cloud-server" if cloud else "edge-client")
        assert not span.error
        if name in CLOUD_STAGES:
            assert span.parent_id == first["answer"].span_id
            assert span.end_ns - span.start_ns == answer.details.cloud.stages_ns[name]
        if name in answer.details.edge.stages_ns:
            assert span.parent_id == first["attempt"].span_id
            assert span.end_ns - span.start_ns == answer.details.edge.stages_ns[name]
        assert first["ask"].start_ns <= span.start_ns <= span.end_ns <= first["ask"].end_ns
    starts = [first[name].start_ns for name in CLOUD_STAGES]
    assert starts == sorted(starts)

    told = first["answer"].fields
    assert told.pop("avq.seconds") > 0
    assert len(told.pop("avq.request_id")) == 16
    assert told == {
        "avq.outcome": "answered",
        "avq.identity": "anonymous",
        "avq.payload_bytes": answer.details.payload_bytes,
        "avq.prompt_tokens": answer.details.usage.prompt_tokens,
        "avq.completion_tokens": answer.details.usage.completion_tokens,
        "avq.image_cached": False,
        "avq.finish_reason": answer.details.finish_reason,
    }
    assert second["answer"].fields["avq.image_cached"] is True
    assert "avq.payload_bytes" not in second["answer"].fields
    assert first["ask"].fields["avq.message_bytes"] == answer.bytes_sent
    assert f'"trace_id": "{first["ask"].trace_id}"' in traced.log


def test_a_refused_question_ends_its_spans_with_the_errors_name(
    traced: CloudProcess, collector: Collector, bundle_directory: Path
) -> None:
    with (
        EdgeClient(traced.target, bundle_directory, EdgeConfig(traces=collector.url)) as client,
        pytest.raises(InvalidInput),
    ):
        client.ask(picture(), "What is <image>?")
    refused = [span for span in collector.wait("ask") if span.error][-1]
    collector.wait("answer", trace_id=refused.trace_id)
    for name in ("ask", "attempt", "answer"):
        span = of(collector.spans, refused.trace_id)[name]
        assert span.error
        assert span.fields["error.type"] == "InvalidInput"
        assert not any("image" in str(value) for value in span.fields.values())


@pytest.mark.parametrize("case", BAD_HEADERS)
def test_a_header_that_cannot_be_read_fails_no_question(
    traced: CloudProcess, collector: Collector, bundle_directory: Path, case: str
) -> None:
    payload = payload_of(bundle_directory)
    before = len(collector.spans)
    with RawClient(traced.target) as raw:
        raw.metadata = (("traceparent", BAD_HEADERS[case]),)
        assert raw.ask([opening(payload.manifest_digest), *parts(payload)])
    deadline = time.monotonic() + 10
    while not (found := [s for s in collector.spans[before:] if s.name == "answer"]):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert found[0].parent_id == ""
    assert found[0].trace_id != TRACE_ID


def test_every_attempt_is_a_span_and_sends_its_own_header(
    collector: Collector, bundle_directory: Path
) -> None:
    seen: list[dict[str, str]] = []
    service = FakeService(failing(Overloaded("expected fewer, got more; wait"), times=1))
    config = EdgeConfig(traces=collector.url, backoff_seconds=0.01)
    with recording(service, seen) as target, EdgeClient(target, bundle_directory, config) as client:
        assert client.ask(picture(), GOOD_QUESTION).details.attempts == 2
    ask = collector.wait("ask")[-1]
    attempts = [s for s in collector.spans if s.name == "attempt" and s.trace_id == ask.trace_id]
    assert [span.error for span in attempts] == [True, False]
    assert attempts[0].fields["error.type"] == "Overloaded"
    for found, span in zip(seen, attempts, strict=True):  # 3: the trace id is random, W3C level 2
        assert re.fullmatch(f"00-{ask.trace_id}-{span.span_id}-0[13]", found["traceparent"])
    assert not any("tracestate" in found or "baggage" in found for found in seen)


def test_left_early_it_ends_as_cancelled(collector: Collector, bundle_directory: Path) -> None:
    service = FakeService(lambda _: whole_answer("one two three"))
    config = EdgeConfig(traces=collector.url)
    with recording(service, []) as target, EdgeClient(target, bundle_directory, config) as client:
        with client.stream(picture(), GOOD_QUESTION) as stream:
            next(stream)
        del stream
    ask = collector.wait("ask")[-1]
    assert (ask.error, ask.fields) == (False, {"avq.outcome": "cancelled"})


def test_a_programs_own_span_is_the_parent(collector: Collector, bundle_directory: Path) -> None:
    service = FakeService(lambda _: whole_answer())
    tracer = TracerProvider(shutdown_on_exit=False).get_tracer("camera")
    with (
        recording(service, []) as target,
        EdgeClient(target, bundle_directory, EdgeConfig(traces=collector.url)) as client,
        tracer.start_as_current_span("patrol") as own,
    ):
        client.ask(picture(), GOOD_QUESTION)
    ask = collector.wait("ask")[-1]
    assert int(ask.parent_id, 16) == own.get_span_context().span_id
    assert int(ask.trace_id, 16) == own.get_span_context().trace_id


def test_off_sends_nothing_more_and_on_one_header(
    collector: Collector, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.url)  # alone it means nothing
    seen: list[dict[str, str]] = []
    spent = []
    with recording(FakeService(lambda _: whole_answer()), seen) as target:
        for config in (EdgeConfig(), EdgeConfig(traces=collector.url)):
            with (
                CountingProxy(int(target.rpartition(":")[2])) as proxy,
                EdgeClient(f"127.0.0.1:{proxy.port}", bundle_directory, config) as client,
            ):
                for number in range(QUESTIONS):
                    client.ask(picture(), GOOD_QUESTION)
                    if number == 1:  # from now on every question is a follow-up on a warm link
                        time.sleep(0.1)
                        proxy.take()
                time.sleep(0.1)
                spent.append(proxy.take().up / (QUESTIONS - 2))
    assert [set(found) for found in seen] == [{"user-agent"}] * QUESTIONS + [
        {"user-agent", "traceparent"}
    ] * QUESTIONS
    assert all(len(found["traceparent"]) == 55 for found in seen[QUESTIONS:])
    assert 0 < spent[1] - spent[0] <= 100  # of HTTP/2's own frames some are more, some fewer


def test_a_collector_that_is_away_costs_no_question_and_little_time(
    bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(otlp, "CLOSE_SECONDS", 0.3)
    with Collector() as gone:
        config = EdgeConfig(traces=gone.url)
    with recording(FakeService(lambda _: whole_answer()), []) as target:
        client = EdgeClient(target, bundle_directory, config)
        assert client.ask(picture(), GOOD_QUESTION) == "a red star "
        started = time.monotonic()
        client.close()
        assert time.monotonic() - started < 3
