"""The methods of the gRPC port. All but `Ask`, which counts for itself, pass here first.

gRPC hands a call with one message to Python only when that has come, and says nothing of calls that
never get so far; so every method is served as one of streams here, which clients cannot tell apart.
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
    """Who answers on the wire."""

    async def GetManifest(  # noqa: N802 - the wire's name
        self, request: bytes, context: Context
    ) -> pb.GetManifestResponse | None:
        """What is served, asked for by a serialised request."""
        ...

    async def Ask(  # noqa: N802 - the wire's name
        self, _: object, context: Context
    ) -> None:
        """One question."""
        ...


class Methods(grpc.GenericRpcHandler):
    """Those of every service that is added; generated `add_…_to_server` functions take it for a
    server. Calls of other methods end as unimplemented.

    Args:
        arrivals: room for calls that are not questions, for as long as they last.
        connections: told of calls that ended before their message came.
        message_seconds: longest wait for it.
    """

    def __init__(
        self, arrivals: Arrivals, connections: Connections, message_seconds: float
    ) -> None:
        self._arrivals = arrivals
        self._connections = connections
        self._seconds = message_seconds
        self._handlers: dict[str, _AnyHandler] = {}
        self._unknown: _AnyHandler = grpc.stream_stream_rpc_method_handler(self._no_such_method)

    def add_generic_rpc_handlers(self, handlers: object) -> None:
        """Nothing: what these hold comes by name, too."""

    def add_registered_method_handlers(
        self, service: str, handlers: Mapping[str, _AnyHandler]
    ) -> None:
        """The methods of a service."""
        for name, handler in handlers.items():
            self._handlers[f"/{service}/{name}"] = self._counted(handler)

    def add_split_inference(self, servicer: SplitInference) -> None:
        """Those of the wire: `Ask`, which counts its calls itself, and `GetManifest`."""
        name = pb.DESCRIPTOR.services_by_name["SplitInference"].full_name
        manifest: _AnyHandler = grpc.unary_unary_rpc_method_handler(
            servicer.GetManifest, None, pb.GetManifestResponse.SerializeToString
        )
        self.add_registered_method_handlers(name, {"GetManifest": manifest})
        self._handlers[f"/{name}/Ask"] = grpc.stream_stream_rpc_method_handler(
            servicer.Ask, pb.AskRequest.FromString, pb.AskResponse.SerializeToString
        )

    def service(self, details: grpc.HandlerCallDetails) -> _AnyHandler:
        """See `grpc.GenericRpcHandler.service`."""
        return self._handlers.get(details.method, self._unknown)

    def _counted(self, handler: _AnyHandler) -> _AnyHandler:
        async def serve(_: object, context: Context) -> None:
            if self._connections.ending(peer := context.peer()):
                raise asyncio.CancelledError
            call = _CountedCall(context, self._seconds)
            self._connections.came(peer, self._arrivals.enter(call, host_of(peer)))
            try:
                async with call.limit:
                    await _run(handler, call)
            except _Ended as ended:
                context.set_code(ended.code)
                context.set_details(ended.details)
            except TimeoutError:
                call.late()
            except DecodeError:
                context.set_code(grpc.StatusCode.INVALID_ARGUMENT)
                context.set_details("expected a message of this method, got other bytes; send one")
            finally:
                self._arrivals.leave(call)
                self._connections.arrived(peer)
                if not call.begun:
                    self._connections.abandoned(peer)

        return grpc.stream_stream_rpc_method_handler(
            serve, handler.request_deserializer, handler.response_serializer
        )

    async def _no_such_method(self, _: object, context: Context) -> None:
        self._connections.abandoned(context.peer())
        context.set_code(grpc.StatusCode.UNIMPLEMENTED)
        context.set_details(
            "expected a method of this service, got another; check address and version"
        )


class _Ended(Exception):
    """A method that ends its call with a status."""

    def __init__(self, code: grpc.StatusCode, details: str) -> None:
        super().__init__(details)
        self.code = code
        self.details = details


class _CountedCall:
    """One call of a method that is not a question, and what its method is given as context.

    Its messages are read one by one, and its end is not gRPC's `abort`: both would hold the call
    until garbage is collected, and with it one of its connection's streams.
    """

    def __init__(self, context: Context, seconds: float) -> None:
        self._context = context
        self._seconds = seconds
        self.limit = asyncio.timeout(seconds)
        self.begun = False
        """Has a message come?"""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)

    async def abort(self, code: grpc.StatusCode, details: str = "", _: tuple[()] = ()) -> NoReturn:
        """See `grpc.aio.ServicerContext.abort`."""
        raise _Ended(code, details)

    async def next(self) -> Any:
        """The next message; None at their end."""
        message = await self._context.read()
        if message is grpc.aio.EOF:
            return None
        self.begun = True
        self.limit.reschedule(None)
        return message

    async def all(self) -> AsyncIterator[Any]:
        """Every message."""
        while (message := await self.next()) is not None:
            yield message

    def give_way(self) -> None:
        """See `admission.Arriving`."""
        self.limit.reschedule(asyncio.get_running_loop().time())

    def late(self) -> None:
        """Its time is over."""
        if self.begun:
            self._context.set_code(grpc.StatusCode.RESOURCE_EXHAUSTED)
            words = "expected fewer calls at the same time, got one more; call again"
        else:
            self._context.set_code(grpc.StatusCode.DEADLINE_EXCEEDED)
            words = f"expected a message within {self._seconds:g} s, got none; call again"
        self._context.set_details(words)


async def _run(handler: Any, call: _CountedCall) -> None:
    """Serve a call, whatever the kind of its method."""
    request = call.all() if handler.request_streaming else await call.next()
    if request is None:  # it ended without one
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
