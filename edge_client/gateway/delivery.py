"""Delivery of responses: a client that disconnects or stalls cancels the work for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_T = TypeVar("_T")


async def until_disconnect(receive: Receive, work: Awaitable[_T]) -> _T:
    """The result of `work`, which is cancelled if the client disconnects first.

    Call it once the request body is read completely.

    Raises:
        ClientDisconnect: the client disconnected.
    """
    working = asyncio.ensure_future(work)
    disconnecting = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({working, disconnecting}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, disconnecting):
            task.cancel()
        await asyncio.wait({working, disconnecting})
        # An error's traceback refers to this frame, which refers to the task, which refers to the
        # error. Such a cycle would keep the request's body until the garbage collector runs.
        del task, working, disconnecting


class EventStream(Response):
    """A response of server-sent events; each is produced once the previous one was sent.

    Args:
        events: encoded events; closed however the response ends.
        stall_seconds: longest time that the client may leave data unread.
        on_end: called at the end, with whether the client received everything.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        stall_seconds: float,
        on_end: Callable[[bool], Awaitable[None]],
    ) -> None:
        super().__init__(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},  # nginx: no buffering
            media_type="text/event-stream",
        )
        del self.headers["content-length"]  # of the empty body that `Response` was given
        self._events = events
        self._stall_seconds = stall_seconds
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        complete = False
        try:
            await until_disconnect(receive, self._send_all(send))
            complete = True
        except ClientDisconnect:
            pass
        finally:
            await self._events.aclose()
            await self._on_end(complete)

    async def _send_all(self, send: Send) -> None:
        async def send_or_disconnect(message: Message) -> None:
            try:
                # `send` waits while the send buffer is full, that is, while the client stalls.
                async with asyncio.timeout(self._stall_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        start = {"status": self.status_code, "headers": self.raw_headers}
        await send_or_disconnect({"type": "http.response.start", **start})
        async for event in self._events:
            await send_or_disconnect(
                {"type": "http.response.body", "body": event, "more_body": True}
            )
        await send_or_disconnect({"type": "http.response.body", "body": b"", "more_body": False})


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
