"""One question on its way over gRPC."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol, Self

import grpc

from aligned_vq.errors import AlignedVQError
from aligned_vq.telemetry.spans import Metadata
from protos.alignedvq.v1 import inference_pb2 as pb

_GRPC_PREFIX_BYTES = 5
_ASK_METHOD = f"/{pb.DESCRIPTOR.services_by_name['SplitInference'].full_name}/Ask"


class Exchange(Protocol):
    """One question in progress, which may start only when responses are asked for. All errors are
    `AlignedVQError`s."""

    @property
    def message_bytes(self) -> int:
        """Serialised bytes handed to gRPC so far, its 5-byte message prefixes included."""
        ...

    def send(self, request: pb.AskRequest) -> None:
        """Queue a message; never blocks."""
        ...

    def finish(self) -> None:
        """Say that no message follows."""
        ...

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """Responses as they come."""
        ...

    def cancel(self) -> None:
        """Hang up; the iterator ends with an error. Safe from any thread, any number of times."""
        ...


class Calls(NamedTuple):
    """Two ways to call `Ask`, which a service cannot tell apart."""

    streamed: Any
    """Of an iterator of requests; each is a write."""
    whole: Any
    """Of one request, which goes out with the call's headers and end in one write."""

    @classmethod
    def on(cls, channel: grpc.Channel) -> Self:
        """Both, over one channel."""
        serializers = (pb.AskRequest.SerializeToString, pb.AskResponse.FromString)
        return cls(
            channel.stream_stream(_ASK_METHOD, *serializers),
            channel.unary_stream(_ASK_METHOD, *serializers),
        )


class GrpcExchange:
    """One call of `Ask`. It starts when it is iterated: what is all there by then is one write, and
    one TLS record.

    Args:
        calls: of its channel.
        timeout_seconds: that it may take, from now.
        metadata: goes with it.
        failed: turns gRPC's errors into ours.
        unless_closed: the same for what a closed channel raises.
    """

    def __init__(
        self,
        calls: Calls,
        timeout_seconds: float,
        metadata: Metadata,
        failed: Callable[[grpc.RpcError], AlignedVQError],
        unless_closed: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.message_bytes = 0
        self._calls = calls
        self._ends = time.monotonic() + timeout_seconds
        self._failed = failed
        self._unless_closed = unless_closed
        self._metadata = metadata
        self._outgoing: queue.SimpleQueue[pb.AskRequest | None] = queue.SimpleQueue()
        self._sent = 0
        self._finished = self._cancelled = False
        self._starting = threading.Lock()
        self._call: Any = None

    def send(self, request: pb.AskRequest) -> None:
        """See `Exchange.send`."""
        self.message_bytes += request.ByteSize() + _GRPC_PREFIX_BYTES
        self._sent += 1
        self._outgoing.put(request)

    def finish(self) -> None:
        """See `Exchange.finish`."""
        self._finished = True
        self._outgoing.put(None)

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """See `Exchange.__iter__`."""
        try:
            with self._starting, self._unless_closed():
                self._call = self._start()
                if self._cancelled:
                    self._call.cancel()
            yield from self._call
        except grpc.RpcError as error:
            raise self._failed(error) from error
        finally:
            self.finish()

    def cancel(self) -> None:
        """See `Exchange.cancel`."""
        with self._starting:
            self._cancelled = True
            if self._call is None:  # what is still to be sent comes before the end
                return
            self._call.cancel()
        self.finish()

    def _start(self) -> Any:
        told: dict[str, Any] = {
            "timeout": max(0.0, self._ends - time.monotonic()),
            "metadata": self._metadata,
        }
        if self._finished and self._sent == 1:
            return self._calls.whole(self._outgoing.get(), **told)
        return self._calls.streamed(iter(self._outgoing.get, None), **told)
