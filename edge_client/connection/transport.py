"""The network seam: what the client needs of a connection, and gRPC's way to give it.

Free of torch, so that a test, a tool or another edge can use it alone.
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
from edge_client.connection.exchange import Calls, Exchange, GrpcExchange
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.alignedvq.v1 import inference_pb2_grpc as rpc
from protos.messages import ServiceInfo
from protos.status import ERROR_KEY, error_from_rpc

CANCELLED_HERE = "the question was cancelled on this side"
NEVER = threading.Event()
"""Never set: for those who do not cancel."""

_CLOSED = "expected an open client, got one that was closed; open another"
_STEP_SECONDS = 0.1
_WATCHER_SECONDS = 0.4
"""In which gRPC's thread that watches a channel has seen that nobody wants to know: it looks every
0.2 seconds, and fails noisily on a channel that was closed meanwhile."""
_PROBE_SECONDS = 0.25
_NO_CONNECTION = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
_CHANNEL_OPTIONS = (
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.http2.bdp_probe", 0),
    ("grpc.enable_retries", 0),  # the client retries: it knows when that is safe
    ("grpc.max_reconnect_backoff_ms", 3_000),  # a service that came back is found soon
)
# Every address behind a name, in turn; without it gRPC keeps to the first that answers.
_ALL_ADDRESSES = ("grpc.service_config", '{"loadBalancingConfig": [{"round_robin": {}}]}')
_SERVING = health_pb2.HealthCheckResponse.SERVING


class Transport(Protocol):
    """A connection to one service."""

    target: str
    """Its address, for people."""

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER) -> None:
        """Wait until the service can be reached; CloudUnreachable if it cannot, soon after
        `cancelled` is set, and once closed."""
        ...

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """A manifest of the service, by digest or its first, and limits."""
        ...

    def check_health(self, timeout_seconds: float) -> None:
        """CloudUnreachable unless the service says soon enough that it takes questions."""
        ...

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> Exchange:
        """Start a question that may take `timeout_seconds` in all; `metadata` goes with it."""
        ...

    def close(self) -> None:
        """Hang up."""
        ...


class GrpcTransport:
    """A channel to `host:port`, connected on first use and kept warm.

    Args:
        target: address of the service; `dns:///name:port` takes all addresses of the name in turn.
        credentials: of both sides; left out, neither encrypted nor named.

    Raises:
        ConfigError: a token would leave this machine in the clear.
    """

    def __init__(self, target: str, credentials: Credentials | None = None) -> None:
        self.target = target
        self._credentials = credentials or Credentials()
        several = (_ALL_ADDRESSES,) if target.startswith("dns:") else ()
        self._channel = self._credentials.channel(target, (*_CHANNEL_OPTIONS, *several))
        self._stub = rpc.SplitInferenceStub(self._channel)
        self._calls = Calls.on(self._channel)
        self._health = health_pb2_grpc.HealthStub(self._channel)
        self._connected = False
        self._connecting = threading.Lock()
        self._watching = threading.Lock()
        self._ready: grpc.Future[None] | None = None
        self._closed = False

    def connect(self, timeout_seconds: float, cancelled: threading.Event = NEVER) -> None:
        """See `Transport.connect`."""
        deadline = time.monotonic() + timeout_seconds
        # One thread waits on the channel at a time: gRPC's own watcher thread fails noisily when
        # several subscribe and the channel is closed soon after.
        for seconds in _steps(deadline, cancelled):
            if self._connecting.acquire(timeout=seconds):
                break
        else:
            raise self._unreachable(timeout_seconds)
        try:
            if not self._connected:
                with self._unless_closed():
                    self._wait(timeout_seconds, deadline, cancelled)
                self._connected = True
        finally:
            self._connecting.release()

    def _wait(self, timeout_seconds: float, deadline: float, cancelled: threading.Event) -> None:
        with self._watching:
            if self._closed:
                raise CloudUnreachable(_CLOSED)
            # Kept when the time is over: subscribing anew soon after is what the thread fails at.
            ready = self._ready = self._ready or grpc.channel_ready_future(self._channel)
        probe_seconds = min(_PROBE_SECONDS, timeout_seconds / 4)
        for seconds in _steps(deadline - probe_seconds, cancelled):
            with suppress(grpc.FutureTimeoutError):
                ready.result(seconds)
                break
        else:  # the last of the time is for asking why
            if words := self._failure(probe_seconds):
                raise self._unreachable(timeout_seconds, words)
        self._forget_ready()

    def service_info(self, timeout_seconds: float, digest: bytes = b"") -> ServiceInfo:
        """See `Transport.service_info`."""
        try:
            with self._unless_closed():
                response = self._stub.GetManifest(
                    pb.GetManifestRequest(manifest_digest=digest),
                    timeout=timeout_seconds,
                    metadata=self._credentials.metadata(),
                )
        except grpc.RpcError as error:
            raise self._failed(error) from error
        return convert.service_info_from_proto(response)

    def check_health(self, timeout_seconds: float) -> None:
        """See `Transport.check_health`; who has no health service is taken to be well."""
        try:
            found = self._health.Check(health_pb2.HealthCheckRequest(), timeout=timeout_seconds)
        except (grpc.RpcError, ValueError) as error:  # ValueError: closed meanwhile
            call: object = error  # its stub lacks what every failed call has
            if isinstance(call, grpc.Call) and call.code() is grpc.StatusCode.UNIMPLEMENTED:
                return
            raise self._unreachable(timeout_seconds) from error
        if found.status != _SERVING:
            raise CloudUnreachable(
                f"expected the service at {self.target} to take questions, got one that does not "
                "now; ask later, or another"
            )

    def open(self, timeout_seconds: float, metadata: Metadata = ()) -> GrpcExchange:
        """See `Transport.open`."""
        metadata = (*self._credentials.metadata(), *metadata)
        return GrpcExchange(
            self._calls, timeout_seconds, metadata, self._failed, self._unless_closed
        )

    def close(self) -> None:
        """See `Transport.close`."""
        self._closed = True
        if self._forget_ready():
            time.sleep(_WATCHER_SECONDS)
        self._channel.close()

    def _forget_ready(self) -> bool:
        """Watch the channel no longer; did anybody?"""
        with self._watching:
            ready, self._ready = self._ready, None
        if ready is not None:
            ready.cancel()
        return ready is not None

    @contextmanager
    def _unless_closed(self) -> Iterator[None]:
        """Our error in place of what a closed channel and its future raise."""
        try:
            yield
        except (grpc.FutureCancelledError, ValueError) as error:
            if not self._closed:
                raise
            raise CloudUnreachable(_CLOSED) from error

    def _failure(self, timeout_seconds: float) -> str:
        """Why the channel does not come up, in gRPC's words; empty if it just did."""
        try:
            # Waits for no connection; a channel does not tell why it has none, but its calls do.
            self._stub.GetManifest(pb.GetManifestRequest(), timeout=timeout_seconds)
        except grpc.RpcError as error:
            call: object = error  # its stub lacks what every failed call has
            if isinstance(call, grpc.Call) and call.code() in _NO_CONNECTION:
                return "" if _by_service(call) else call.details() or "no details"
        return ""

    def _unreachable(self, timeout_seconds: float, details: str = "") -> CloudUnreachable:
        advice = (
            self._credentials.reason(details) or "check that it runs, the address, and the link"
        )
        return CloudUnreachable(
            f"expected a service at {self.target}, none that speaks gRPC with this client answered "
            f"within {round(timeout_seconds, 2):g} s; {advice}"
        )

    def _failed(self, error: grpc.RpcError) -> AlignedVQError:
        """Our error; once a connection was lost, the next `connect` waits for a new one."""
        call: object = error  # its stub lacks what every failed call has
        if isinstance(call, grpc.Call) and call.code() is grpc.StatusCode.UNAVAILABLE:
            self._connected = self._connected and _by_service(call)
        return error_from_rpc(error)


def _steps(end: float, cancelled: threading.Event) -> Iterator[float]:
    """Seconds to wait, once at least and until that time; CloudUnreachable once cancelled."""
    left = _STEP_SECONDS
    while left > 0:
        if cancelled.is_set():
            raise CloudUnreachable(CANCELLED_HERE)
        yield max(0.0, min(_STEP_SECONDS, end - time.monotonic()))
        left = end - time.monotonic()


def _by_service(call: grpc.Call) -> bool:
    """Did our service itself end the call?"""
    return any(key == ERROR_KEY for key, _ in call.trailing_metadata() or ())
