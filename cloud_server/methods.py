"""The method handlers of the gRPC port, which limit and count their calls; `Ask` does so itself.

For a unary request gRPC calls Python only once the message has arrived, and a call whose message
never arrives stays invisible. So every method is served as a streaming one, which clients cannot
tell apart, and its messages are read here with a time limit.
"""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import AsyncIterator, Mapping
from typing import Any, NoReturn, Protocol, TypeAlias

import grpc
from google.protobuf.message import DecodeError

from cloud_server.access.admission import Arrivals
from cloud_server.access.connections import Connections
from cloud_server.access.identity import Context
from cloud_server.access.sockets import host_of
from protos.alignedvq.v1 import inference_pb2 as pb

_AnyHandler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class SplitInference(Protocol):
    """The RPCs of this project's service."""

    async def GetManifest(  # noqa: N802 - the wire's name
        self, request: bytes, context: Context
    ) -> pb.GetManifestResponse | None:
        """The manifest and limits; `request` is the serialised message."""
        ...

    async def Ask(  # noqa: N802 - the wire's name
        self, _: object, context: Context
    ) -> None:
        """Answer one question."""
        ...


class Methods(grpc.GenericRpcHandler):
    """Routes calls to the methods of all added services; other methods are unimplemented.

    It has the two methods of `grpc.aio.Server` that generated `add_…_to_server` functions call.

    Args:
        arrivals: limits concurrent calls that are not questions, from start to end.
        connections: notified of calls that ended before their first message arrived.
        message_seconds: longest wait for that message.
    """

    def __init__(
        self, arrivals: Arrivals, connections: Connections, message_seconds: float
    ) -> None:
        self._arrivals = arrivals
        self._connections = connections
        self._message_seconds = message_seconds
        self._handlers: dict[str, _AnyHandler] = {}
        self._unimplemented: _AnyHandler = grpc.stream_stream_rpc_method_handler(
            self._no_such_method
        )

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Ignored: generated code also registers the same handlers by name."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, _AnyHandler]
    ) -> None:
        """Add the methods of a service."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = self._counted(handler)

    def add_split_inference(self, servicer: SplitInference) -> None:
        """Add `GetManifest`, and `Ask`, which counts its calls itself."""
        name = pb.DESCRIPTOR.services_by_name["SplitInference"].full_name
        # No deserialiser: the caller is authenticated before its bytes are parsed.
        manifest: _AnyHandler = grpc.unary_unary_rpc_method_handler(
            servicer.GetManifest, None, pb.GetManifestResponse.SerializeToString
        )
        self.add_registered_method_handlers(name, {"GetManifest": manifest})
        self._handlers[f"/{name}/Ask"] = grpc.stream_stream_rpc_method_handler(
            servicer.Ask, pb.AskRequest.FromString, pb.AskResponse.SerializeToString
        )

    def service(self, details: grpc.HandlerCallDetails) -> _AnyHandler:
        """See `grpc.GenericRpcHandler.service`."""
        # Not None: gRPC would then answer by itself, and the call would count nowhere.
        return self._handlers.get(details.method, self._unimplemented)

    def _counted(self, handler: _AnyHandler) -> _AnyHandler:
        async def serve(_: object, context: Context) -> None:
            if self._connections.is_closing(peer := context.peer()):
                # Nobody reads a status on a connection that is being closed.
                raise asyncio.CancelledError
            call = _CountedCall(context, self._message_seconds)
            # These calls are counted by address: they are identified later or not at all.
            self._connections.call_started(peer, self._arrivals.enter(call, host_of(peer)))
            try:
                async with call.limit:
                    await _serve(handler, call)
            except _CallAborted as aborted:
                context.set_code(aborted.code)
                context.set_details(aborted.details)
            except TimeoutError:
                call.set_timeout_status()
            except DecodeError:
                context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                context.set_details(
                    "expected a message of this method, got other bytes; check the client's version"
                )
            finally:
                self._arrivals.leave(call)
                self._connections.call_ended(peer)
                if not call.received:
                    self._connections.call_abandoned(peer)

        return grpc.stream_stream_rpc_method_handler(
            serve, handler.request_deserializer, handler.response_serializer
        )

    async def _no_such_method(self, _: object, context: Context) -> None:
        # It carries no question, and costs as much as a call that was given up.
        self._connections.call_abandoned(context.peer())
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details(
            "expected a method of this service, got another; check address and version"
        )


class _CallAborted(Exception):
    """Raised by `_CountedCall.abort` to end the call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _CountedCall:
    """One call of a method other than `Ask`; its behaviour receives it in place of the context.

    Messages are read one by one and `abort` is replaced: gRPC's request iterator and its `abort`
    leave reference cycles that hold the call, and one of its connection's streams, until the
    garbage collector runs.
    """

    def __init__(self, context: Context, seconds: float) -> None:
        self._context = context
        self._message_seconds = seconds
        self.limit = asyncio.timeout(seconds)
        self.received = False
        """Whether a message has arrived."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", _: tuple[()] = ()) -> NoReturn:
        """See `grpc.aio.ServicerContext.abort`."""
        raise _CallAborted(code, details)

    async def next(self) -> Any:
        """The next message; None at the end of the stream."""
        message = await self._context.read()
        if message is grpc.aio.EOF:
            return None
        self.received = True
        # A health watch may last for ever once its request has arrived.
        self.limit.reschedule(None)
        return message

    async def all(self) -> AsyncIterator[Any]:
        """The remaining messages."""
        while (message := await self.next()) is not None:
            yield message

    def evict(self) -> None:
        """See `admission.PendingCall`."""
        self.limit.reschedule(asyncio.get_running_loop().time())

    def set_timeout_status(self) -> None:
        """Set the status of a call whose time limit passed or that was evicted."""
        if self.received:
            self._context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            details = "expected fewer calls at the same time, got one more; call again later"
        else:
            self._context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
            details = f"expected a message within {self._message_seconds:g} s, got none; call again"
        self._context.set_details(details)


async def _serve(handler: Any, call: _CountedCall) -> None:
    """Serve a call of any of gRPC's four kinds."""
    request = call.all() if handler.request_streaming else await call.next()
    if request is None:  # the client ended the stream without a message
        return
    if handler.unary_unary is not None:
        response = await handler.unary_unary(request, call)
        if response is not None:
            await call.write(response)
        return
    behaviour = handler.stream_stream or handler.unary_stream
    if inspect.isasyncgenfunction(behaviour):
        async for response in behaviour(request, call):
            await call.write(response)
    else:
        await behaviour(request, call)
