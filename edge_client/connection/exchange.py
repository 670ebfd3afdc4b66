"""One call of the `Ask` method over gRPC."""

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

_GRPC_PREFIX_BYTES = 5  # a compression flag and a length of 4 bytes before every message
# The generated stub has the streaming form alone; `AskMethods` needs both.
_ASK_METHOD = f"/{pb.DESCRIPTOR.services_by_name['SplitInference'].full_name}/Ask"


class Exchange(Protocol):
    """One question in progress. An implementation may start the call only when it is iterated.
    All errors are `AlignedVQError`s."""

    @property
    def message_bytes(self) -> int:
        """Serialised bytes handed to gRPC so far, its 5-byte message prefixes included."""
        ...

    def send(self, request: pb.AskRequest) -> None:
        """Queue a message; never blocks."""
        ...

    def finish(self) -> None:
        """End the request stream."""
        ...

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """Responses as they arrive."""
        ...

    def cancel(self) -> None:
        """Cancel the call; its iterator raises. Thread-safe and idempotent."""
        ...


class AskMethods(NamedTuple):
    """Two client stubs of `Ask` that look the same to the service."""

    streaming: Any
    """Takes an iterator of requests; each one is a separate write."""
    single: Any
    """Takes one request, sent with the call's headers and end of stream in one write."""

    @classmethod
    def of(cls, channel: grpc.Channel) -> Self:
        """Both stubs of a channel."""
        serializers = (pb.AskRequest.SerializeToString, pb.AskResponse.FromString)
        return cls(
            channel.stream_stream(_ASK_METHOD, *serializers),
            channel.unary_stream(_ASK_METHOD, *serializers),
        )


class GrpcExchange:
    """One call of `Ask`. It starts when it is iterated: a question that is complete by then goes
    out in one write and one TLS record.

    Args:
        methods: stubs of `Ask` on the channel.
        timeout_seconds: for the whole call, from now.
        metadata: of the call.
        convert_error: turns a gRPC error into one of this project.
        closed_errors: context that does the same for the errors of a closed channel.
    """

    def __init__(
        self,
        methods: AskMethods,
        timeout_seconds: float,
        metadata: Metadata,
        convert_error: Callable[[grpc.RpcError], AlignedVQError],
        closed_errors: Callable[[], AbstractContextManager[None]],
    ) -> None:
        self.message_bytes = 0
        self._methods = methods
        self._deadline = time.monotonic() + timeout_seconds
        self._convert_error = convert_error
        self._closed_errors = closed_errors
        self._metadata = metadata
        self._requests: queue.SimpleQueue[pb.AskRequest | None] = queue.SimpleQueue()
        self._num_requests = 0
        self._finished = self._cancelled = False
        # Held while the call starts, so that `cancel` finds either no call or a started one.
        self._start_lock = threading.Lock()
        self._call: Any = None

    def send(self, request: pb.AskRequest) -> None:
        """See `Exchange.send`."""
        self.message_bytes += request.ByteSize() + _GRPC_PREFIX_BYTES
        self._num_requests += 1
        self._requests.put(request)

    def finish(self) -> None:
        """See `Exchange.finish`."""
        self._finished = True
        self._requests.put(None)

    def __iter__(self) -> Iterator[pb.AskResponse]:
        """See `Exchange.__iter__`."""
        try:
            with self._start_lock, self._closed_errors():
                self._call = self._start()
                if self._cancelled:
                    self._call.cancel()
            yield from self._call
        except grpc.RpcError as error:
            raise self._convert_error(error) from error
        finally:
            self.finish()  # ends gRPC's thread that reads the queue

    def cancel(self) -> None:
        """See `Exchange.cancel`."""
        with self._start_lock:
            self._cancelled = True
            if self._call is None:  # `__iter__` cancels it, and still needs the queued requests
                return
            self._call.cancel()
        self.finish()

    def _start(self) -> Any:
        options: dict[str, Any] = {
            "timeout": max(0.0, self._deadline - time.monotonic()),
            "metadata": self._metadata,
        }
        if self._finished and self._num_requests == 1:
            return self._methods.single(self._requests.get(), **options)
        return self._methods.streaming(iter(self._requests.get, None), **options)
