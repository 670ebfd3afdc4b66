"""A collector of traces on a free port: what is exported comes here, over real OTLP/gRPC."""

from __future__ import annotations

import time
from concurrent import futures
from typing import Any, NamedTuple, Self

import grpc
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as pb
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as rpc

WAIT_S = 10.0


class Exported(NamedTuple):
    """A span as it was sent."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    start_ns: int
    end_ns: int
    error: bool
    fields: dict[str, Any]


class Collector(rpc.TraceServiceServicer):
    """Listens while it is entered; `url` is for `traces`."""

    def __init__(self) -> None:
        self.requests: list[pb.ExportTraceServiceRequest] = []

    def __enter__(self) -> Self:
        self._server = grpc.server(futures.ThreadPoolExecutor(2))
        rpc.add_TraceServiceServicer_to_server(self, self._server)  # type: ignore[no-untyped-call]
        self.url = f"http://127.0.0.1:{self._server.add_insecure_port('127.0.0.1:0')}"
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.stop(None).wait(5)

    def Export(  # noqa: N802
        self, request: pb.ExportTraceServiceRequest, context: grpc.ServicerContext
    ) -> pb.ExportTraceServiceResponse:
        self.requests.append(request)
        return pb.ExportTraceServiceResponse()

    @property
    def spans(self) -> list[Exported]:
        """All that came so far."""
        return [
            Exported(
                _fields(sent.resource.attributes)["service.name"],
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.kind,
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                span.status.code == span.status.STATUS_CODE_ERROR,
                _fields(span.attributes),
            )
            for request in list(self.requests)
            for sent in request.resource_spans
            for scope in sent.scope_spans
            for span in scope.spans
        ]

    def wait(self, name: str, count: int = 1, trace_id: str = "") -> list[Exported]:
        """The spans of a name, of one trace or of all, once there are so many."""
        deadline = time.monotonic() + WAIT_S
        while True:
            named = [span for span in self.spans if span.name == name]
            found = [span for span in named if trace_id in ("", span.trace_id)]
            if len(found) >= count:
                return found
            assert time.monotonic() < deadline, f"{len(found)} spans {name!r} of {count}"
            time.sleep(0.02)


def _fields(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}
