"""Health and reflection pass no gate of their own: here their callers are looked at, too."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeAlias

import grpc

from aligned_vq.errors import Unauthenticated
from cloud_server.access.identity import Context, Identities
from protos.status import status_of

Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"


class CertificateInterceptor(grpc.aio.ServerInterceptor):
    """Refuses calls of those whose certificates are refused, and ends the ones that run.

    Without client certificates anybody may ask for health, so it stands in nobody's way there.

    Args:
        identities: know who calls.
        own: name of the service that looks at its callers itself.
    """

    def __init__(self, identities: Identities, own: str) -> None:
        self._identities = identities
        self._own = f"/{own}/"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or str(handler_call_details.method).startswith(self._own):
            return handler  # type: ignore[no-any-return]
        if handler.response_streaming:
            streaming = handler.stream_stream or handler.unary_stream
            made = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return made(
                self._guarded(_written(streaming)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        if handler.request_streaming:
            return handler  # type: ignore[no-any-return]
        return grpc.unary_unary_rpc_method_handler(
            self._guarded(handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _guarded(self, behaviour: Any) -> Any:
        async def call(request: Any, context: Context) -> Any:
            key, refused = object(), list[Unauthenticated]()
            try:
                caller = self._identities.certify(context)
                async with asyncio.timeout(None) as limit:

                    def end(why: Unauthenticated) -> None:
                        refused.append(why)
                        with suppress(RuntimeError):  # it has just ended by itself
                            limit.reschedule(asyncio.get_running_loop().time())

                    self._identities.began(key, caller, end)
                    return await behaviour(request, context)
            except Unauthenticated as error:
                refused.append(error)
            except TimeoutError:
                if not refused:
                    raise
            finally:
                self._identities.ended(key)
            return await context.abort(*status_of(refused[0]))

        return call


def _written(behaviour: Any) -> Any:
    """A coroutine that writes what the behaviour yields, or the behaviour if it writes itself."""
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def write_all(request: Any, context: Context) -> None:
        async for response in behaviour(request, context):
            await context.write(response)

    return write_all
