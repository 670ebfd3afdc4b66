"""Checks client certificates for health checks and reflection, which do not pass the gate."""

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
    """Refuses calls from clients whose certificate is refused, and ends those that are running.

    Without client certificates, health checks and reflection are open to everyone.

    Args:
        identities: authenticates callers.
        gated_service: full name of the service that authenticates its callers itself.
    """

    def __init__(self, identities: Identities, gated_service: str) -> None:
        self._identities = identities
        self._gated_prefix = f"/{gated_service}/"

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """See `grpc.aio.ServerInterceptor`."""
        handler: Any = await continuation(handler_call_details)
        if handler is None or str(handler_call_details.method).startswith(self._gated_prefix):
            return handler  # type: ignore[no-any-return]
        if handler.response_streaming:
            streaming = handler.stream_stream or handler.unary_stream
            make_handler = (
                grpc.stream_stream_rpc_method_handler
                if handler.request_streaming
                else grpc.unary_stream_rpc_method_handler
            )
            return make_handler(
                # A generator's body would run outside of the time limit that ends the call.
                self._authenticated(_as_coroutine(streaming)),
                handler.request_deserializer,
                handler.response_serializer,
            )
        # Health checks and reflection have no methods of this kind.
        if handler.request_streaming:
            return handler  # type: ignore[no-any-return]
        return grpc.unary_unary_rpc_method_handler(
            self._authenticated(handler.unary_unary),
            handler.request_deserializer,
            handler.response_serializer,
        )

    def _authenticated(self, behaviour: Any) -> Any:
        async def authenticated(request: Any, context: Context) -> Any:
            call_key, errors = object(), list[Unauthenticated]()
            try:
                caller = self._identities.identify_by_certificate(context)
                async with asyncio.timeout(None) as timeout:

                    def cancel(error: Unauthenticated) -> None:
                        errors.append(error)
                        with suppress(RuntimeError):  # the call has just ended by itself
                            timeout.reschedule(asyncio.get_running_loop().time())

                    self._identities.add_call(call_key, caller, cancel)
                    return await behaviour(request, context)
            except Unauthenticated as error:
                errors.append(error)
            except TimeoutError:
                if not errors:
                    raise
            finally:
                self._identities.remove_call(call_key)
            return await context.abort(*status_of(errors[0]))

        return authenticated


def _as_coroutine(behaviour: Any) -> Any:
    """The behaviour as a coroutine: it writes what an async generator would yield."""
    if not inspect.isasyncgenfunction(behaviour):
        return behaviour

    async def write_all(request: Any, context: Context) -> None:
        async for response in behaviour(request, context):
            await context.write(response)

    return write_all
