"""Answers go to clients that are there and read; whoever hangs up or stalls stops the work."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import TypeVar

from starlette.requests import ClientDisconnect
from starlette.responses import Response
from starlette.types import Message, Receive, Scope, Send

_T = TypeVar("_T")


async def unless_gone(receive: Receive, work: Awaitable[_T]) -> _T:
    """What the work gives, once the whole request was read.

    Raises:
        ClientDisconnect: the client hung up; the work was cancelled.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientDisconnect
    finally:
        for task in (working, leaving):
            task.cancel()
        await asyncio.wait({working, leaving})
        # A traceback has this frame, hence the task, which has the error: the request's body would
        # stay until the next collection of cycles.
        del task, working, leaving


class EventStream(Response):
    """Server-sent events, each made when the one before was taken.

    Args:
        events: what to send; closed in whatever way the response ends.
        stall_seconds: longest time that the client may leave what was sent unread.
        ended: told when it is over, and whether the client was there to the end.
    """

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        stall_seconds: float,
        ended: Callable[[bool], Awaitable[None]],
    ) -> None:
        super().__init__(
            headers={"Cache-Control": "no-store", "X-Accel-Buffering": "no"},
            media_type="text/event-stream",
        )
        del self.headers["content-length"]
        self._events = events
        self._stall_seconds = stall_seconds
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the events."""
        complete = False
        try:
            await unless_gone(receive, self._sent(send))
            complete = True
        except ClientDisconnect:
            pass
        finally:
            await self._events.aclose()
            await self._ended(complete)

    async def _sent(self, send: Send) -> None:
        async def patiently(message: Message) -> None:
            try:
                async with asyncio.timeout(self._stall_seconds):
                    await send(message)
            except TimeoutError:
                raise ClientDisconnect from None

        start = {"status": self.status_code, "headers": self.raw_headers}
        await patiently({"type": "http.response.start", **start})
        async for event in self._events:
            await patiently({"type": "http.response.body", "body": event, "more_body": True})
        await patiently({"type": "http.response.body", "body": b"", "more_body": False})


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
