"""The network seam: the `Transport` protocol that the client uses, and its gRPC implementation.

Free of torch, so that tests, tools and other clients can use it alone.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from aligned_vq.errors import AlignedVQError, CloudUnreachable
from aligned_vq.telemetry.spans import Metadata
from edge_client.connection.credentials import Credentials
from edge_client.connection.exchange import AskMethods, Exchange, GrpcExchange
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import ServiceInfo
from protos.status import ERROR_KEY, error_from_rpc

CANCELLED_BY_CLIENT = "the question was cancelled on this side"
NEVER_CANCELLED = threading.Event()
"""Never set: the default for callers that do not cancel."""

_CLOSED = "expected an open client, got a closed one; open another"
_STEP_SECONDS = 0.1
_WATCHER_SECONDS = 0.4
"""Time for gRPC's connectivity thread to notice that its last subscriber left. It polls every 0.2
seconds, and prints a traceback if the channel was closed meanwhile."""
_PROBE_SECONDS = 0.25
_NO_CONNECTION = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),  # with the timeout: a dead link is noticed in 40 s
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),  # no limit, so that idle connections stay open
    ("grpc.http2.bdp_probe", 0),  # its pings cost bytes, and questions are too small to profit
    ("grpc.enable_retries", 0),  # the client retries itself: it knows when that is safe
    ("grpc.max_reconnect_backoff_ms", 3_000),  # reconnect soon after a restart of the service
)
# All addresses of a DNS name in rotation; gRPC's default stays with the first one that connects.
_ALL_ADDRESSES = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
_SERVING = health_pb2.HealthCheckResponse.SERVING


class Transport(Protocol):
    """A connection to one service."""

    target: str
    """Address of the service, for messages."""

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER_CANCELLED) -> None:
        """Wait until the service can be reached.

        Raises:
            CloudUnreachable: it cannot within that time, or `cancelled` was set, or the transport
                is closed.
        """
        ...

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """Limits of the service, and its manifest of that digest (empty: its first manifest)."""
        ...

    def check_health(self, timeout_seconds: float) -> None:
        """CloudUnreachable unless the service reports in time that it is serving."""
        ...

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> Exchange:
        """Start a question that may take `timeout_seconds` in total, with gRPC `metadata`."""
        ...

    def close(self) -> None:
        """Close the connection."""
        ...


class GrpcTransport:
    """A channel to `host:port`, connected on first use and then kept open.

    Args:
        target: address of the service; `dns:///name:port` uses all addresses of the name in
            rotation.
        credentials: of both sides; None: unencrypted and anonymous.

    Raises:
        ConfigError: a token would leave this machine in the clear.
    """

    def __init__(self, target: str, credentials: Credentials | None = None) -> None:
        self.target = target
        self._credentials = credentials or Credentials()
        balancing = (_ALL_ADDRESSES,) if target.startswith("dns:") else ()
        self._channel = self._credentials.channel(target, (*_CHANNEL_OPTIONS, *balancing))
        self._stub = rpc.SplitInferenceStub(self._channel)
        self._ask_methods = AskMethods.of(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._connected = False
        self._connecting = threading.Lock()
        self._ready_lock = threading.Lock()
        self._ready: grpc.Future[None] | None = None
        self._closed = False

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER_CANCELLED) -> None:
        """See `Transport.connect`."""
        deadline = time.monotonic() + timeout_seconds
        # One thread at a time waits on the channel: gRPC's connectivity thread prints a traceback
        # when several subscribe and the channel is closed soon after.
        for seconds in _wait_steps(deadline, cancelled):
            if self._connecting.acquire(timeout=seconds):
                break
        else:
            raise self._unreachable(timeout_seconds)
        try:
            if not self._connected:
                with self._closed_errors():
                    self._wait_until_ready(timeout_seconds, deadline, cancelled)
                self._connected = True
        finally:
            self._connecting.release()

    def _wait_until_ready(
        self, timeout_seconds: float, deadline: float, cancelled: threading.Event
    ) -> None:
        with self._ready_lock:
            if self._closed:
                raise CloudUnreachable(_CLOSED)
            # The future survives a timeout: unsubscribing and subscribing again soon after is what
            # gRPC's connectivity thread cannot take.
            ready = self._ready = self._ready or grpc.channel_ready_future(self._channel)
        probe_seconds = min(_PROBE_SECONDS, timeout_seconds / 4)
        for seconds in _wait_steps(deadline - probe_seconds, cancelled):
            with suppress(grpc.FutureTimeoutError):
                ready.result(seconds)
                break
        else:  # the rest of the timeout goes to finding the reason
            if details := self._connection_error(probe_seconds):
                raise self._unreachable(timeout_seconds, details)
        self._discard_ready()

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """See `Transport.service_info`."""
        try:
            with self._closed_errors():
                response = self._stub.GetManifest(
                    pb.GetManifestRequest(manifest_digest=digest),
                    timeout=timeout_seconds,
                    metadata=self._credentials.metadata(),
                )
        except grpc.RpcError as error:
            raise self._convert_error(error) from error
        return convert.service_info_from_proto(response)

    def check_health(self, timeout_seconds: float) -> None:
        """See `Transport.check_health`; a server without the health service counts as healthy."""
        try:
            response = self._health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except (grpc.RpcError, ValueError) as error:  # ValueError: the channel was closed
            call: object = error  # the type stubs do not say that a failed call is a grpc.Call
            if isinstance(call, grpc.Call) and call.code() is grpc.StatusCode.UNIMPLEMENTED:
                return
            raise self._unreachable(timeout_seconds) from error
        if response.status != _SERVING:
            raise CloudUnreachable(
                f"expected a serving service at {self.target}, got health status NOT_SERVING; "
                "try later, or another service"
            )

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> GrpcExchange:
        """See `Transport.open`."""
        metadata = (*self._credentials.metadata(), *metadata)
        return GrpcExchange(
            self._ask_methods, timeout_seconds, metadata, self._convert_error, self._closed_errors
        )

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        if self._discard_ready():
            time.sleep(_WATCHER_SECONDS)
        self._channel.close()

    def _discard_ready(self) -> bool:
        """Cancel the future that watches the channel; False if there was none."""
        with self._ready_lock:
            ready, self._ready = self._ready, None
        if ready is not None:
            ready.cancel()
        return ready is not None

    @contextmanager
    def _closed_errors(self) -> Iterator[None]:
        """Raise CloudUnreachable instead of what a closed channel and its future raise."""
        try:
            yield
        except (grpc.FutureCancelledError, ValueError) as error:
            if not self._closed:
                raise
            raise CloudUnreachable(_CLOSED) from error

    def _connection_error(self, timeout_seconds: float) -> str:
        """gRPC's details of why the channel does not connect; empty if it just did."""
        try:
            # A channel does not report why it has no connection, but a failed call on it does.
            self._stub.GetManifest(pb.GetManifestRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            call: object = error  # as in `check_health`
            if isinstance(call, grpc.Call) and call.code() in _NO_CONNECTION:
                return "" if _is_from_service(call) else call.details() or "no details"
        return ""

    def _unreachable(self, timeout_seconds: float, details: str = "") -> CloudUnreachable:
        advice = (
            self._credentials.advice(details) or "check that it runs, the address, and the link"
        )
        return CloudUnreachable(
            f"expected a service at {self.target}, none that speaks gRPC with this client answered "
            f"within {round(timeout_seconds, 2):g} s; {advice}"
        )

    def _convert_error(self, error: grpc.RpcError) -> AlignedVQError:
        """The error of this project; after a lost connection the next `connect` waits again."""
        call: object = error  # as in `check_health`
        if isinstance(call, grpc.Call) and call.code() is grpc.StatusCode.UNAVAILABLE:
            self._connected = self._connected and _is_from_service(call)
        return error_from_rpc(error)


def _wait_steps(deadline: float, cancelled: threading.Event) -> Iterator[float]:
    """Short waits in seconds until the deadline, at least one, to notice a cancellation.

    Raises:
        CloudUnreachable: `cancelled` is set.
    """
    remaining_seconds = _STEP_SECONDS
    while remaining_seconds > 0:
        if cancelled.is_set():
            raise CloudUnreachable(CANCELLED_BY_CLIENT)
        yield max(0.0, min(_STEP_SECONDS, deadline - time.monotonic()))
        remaining_seconds = deadline - time.monotonic()


def _is_from_service(call: grpc.Call) -> bool:
    """Whether the service itself ended the call, and not gRPC for lack of a connection."""
    return any(key == ERROR_KEY for key, _ in call.trailing_metadata() or ())
