"""Traces with OpenTelemetry's SDK, sent in batches over OTLP/gRPC.

This is the only module that imports OpenTelemetry. Its tracer provider is not registered globally:
the program's provider is left alone, and other libraries do not send through this one.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping, Sequence

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, Sampler, SamplingResult
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import Attributes

from aligned_vq import __version__
from aligned_vq.telemetry.spans import CANCELLED, Fields, Kind, Metadata, Span, Traces

CLOSE_SECONDS = 3.0
"""Maximum wait for the collector when traces are closed."""
PREFIX = "avq."
"""Prefix of attribute names."""
_HEADER = "traceparent"
_PROPAGATOR = TraceContextTextMapPropagator()
_KINDS: Mapping[Kind, trace.SpanKind] = {
    "internal": trace.SpanKind.INTERNAL,
    "client": trace.SpanKind.CLIENT,
    "server": trace.SpanKind.SERVER,
}


class OtlpTraces(Traces):
    """Sends spans to a collector, from a thread of the SDK.

    Args:
        endpoint: URL of an OTLP/gRPC collector; TLS with https.
        service: name of this service, unless the environment sets one.
    """

    def __init__(self, endpoint: str, service: str) -> None:
        environment = OTELResourceDetector().detect().attributes
        resource = Resource.create(
            # The environment last, so that it overrides the name.
            {"service.name": service, "service.version": __version__, **environment}
        )
        self._exporter = OTLPSpanExporter(endpoint=endpoint)
        self._processor = BatchSpanProcessor(self._exporter)
        self._provider = TracerProvider(resource=resource)
        # The provider's is the sampler that the environment variables select.
        self._provider.sampler = LocalSampler(self._provider.sampler)
        self._provider.add_span_processor(self._processor)
        self._tracer = self._provider.get_tracer("aligned_vq", __version__)

    def start(self, name: str) -> Span:
        """See `Traces.start`."""
        return OtlpSpan(self._tracer, self._tracer.start_span(name))

    def join(self, name: str, metadata: Iterable[tuple[str, str | bytes]]) -> Span:
        """See `Traces.join`. Invalid and repeated headers are ignored."""
        headers = [str(value) for key, value in metadata if key == _HEADER]
        carrier = {_HEADER: headers[0]} if len(headers) == 1 else {}
        # An empty context, because only the caller's span may be the parent.
        context = _PROPAGATOR.extract(carrier, Context())
        span = self._tracer.start_span(name, context, trace.SpanKind.SERVER)
        return OtlpSpan(self._tracer, span)

    def close(self) -> None:
        """See `Traces.close`."""
        # Flushing retries for long while the collector is unreachable: it is abandoned.
        flushing = threading.Thread(target=self._processor.force_flush, daemon=True)
        flushing.start()
        flushing.join(CLOSE_SECONDS)
        if flushing.is_alive():
            # Ends the retries.
            self._exporter.shutdown()
        self._provider.shutdown()


class OtlpSpan(Span):
    """A span of the SDK, recorded or not."""

    def __init__(self, tracer: trace.Tracer, span: trace.Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = trace.set_span_in_context(span)
        context = span.get_span_context()
        if context.is_valid:
            self.trace_id = trace.format_trace_id(context.trace_id)
        carrier: dict[str, str] = {}
        _PROPAGATOR.inject(carrier, self._context)
        # Without tracestate, which the caller may fill with anything.
        self.metadata: Metadata = tuple(item for item in carrier.items() if item[0] == _HEADER)

    def child(self, name: str, kind: Kind = "internal") -> Span:
        """See `Span.child`."""
        return OtlpSpan(
            self._tracer, self._tracer.start_span(name, self._context, kind=_KINDS[kind])
        )

    def stages(self, stages_ns: Mapping[str, int]) -> None:
        """See `Span.stages`."""
        # Stages are reported after they have ended, so they are placed backwards from now.
        start = time.time_ns() - sum(stages_ns.values())
        for name, spent_ns in stages_ns.items():
            self._tracer.start_span(name, self._context, start_time=start).end(start + spent_ns)
            start += spent_ns

    def note(self, fields: Fields) -> None:
        """See `Span.note`."""
        if self._span.is_recording():
            self._span.set_attributes({f"{PREFIX}{name}": value for name, value in fields.items()})

    def end(self, error: BaseException | str | None = None) -> None:
        """See `Span.end`."""
        if not self._span.is_recording():
            return  # already ended, or not sampled
        if error is not None and (name := _error_name(error)) == CANCELLED:
            self.note({"outcome": name})
        elif error is not None:
            self._span.set_attribute("error.type", name)
            self._span.set_status(trace.StatusCode.ERROR, name)
        self._span.end()


def _error_name(error: BaseException | str) -> str:
    """The name of what ended a span; cancellation is not an error."""
    if isinstance(error, str):
        return error
    return type(error).__name__ if isinstance(error, Exception) else CANCELLED


class LocalSampler(Sampler):
    """The sampler selected by the environment, protected against remote callers.

    A caller can choose its "sampled" flag and trace id, and so could have every request recorded.
    The decision is therefore made with a random id. Only "not sampled" is respected, by samplers
    named `parentbased`. Spans with a local parent are recorded if the parent is.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler
        self._ids = RandomIdGenerator()

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: trace.SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[trace.Link] | None = None,
        trace_state: trace.TraceState | None = None,
    ) -> SamplingResult:
        """Whether to record a span; see OpenTelemetry's `Sampler`."""
        parent = trace.get_current_span(parent_context).get_span_context()
        if parent.is_valid and not parent.is_remote:
            sampled = parent.trace_flags.sampled
            return SamplingResult(Decision.RECORD_AND_SAMPLE if sampled else Decision.DROP)
        if (
            parent.is_valid
            and isinstance(self._sampler, ParentBased)
            and not parent.trace_flags.sampled
        ):
            return SamplingResult(Decision.DROP)
        sampling_id = self._ids.generate_trace_id() if parent.is_valid else trace_id
        return self._sampler.should_sample(Context(), sampling_id, name, kind, attributes, links)

    def get_description(self) -> str:
        """A description for logs."""
        return f"LocalSampler({self._sampler.get_description()})"
