"""The HTTP server of every process that has one: uvicorn, with room for those who ask.

Idle connections stay while there is room; where there is not, the one that was idle for longest is
closed. So whoever connects and says nothing, or never ends the head of a request, keeps nobody out
and takes no descriptor from others.
"""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

KEEP_ALIVE_SECONDS = 75
"""Of an idle connection: longer than clients pool theirs, so that it is they who close."""
HEAD_SECONDS = 20.0
"""From the first byte of a request until its head is whole."""
ACCEPTED_AT_ONCE = 16
"""Between two of them that have to give way, others must have time to say what they want."""
WAITING = 1024
"""Connections that the system holds until they are accepted."""


def config(app: Any, most_connections: int, **further: Any) -> uvicorn.Config:
    """Settings of a server: no log line for each request, and at most so many connections.

    Args:
        app: the ASGI application.
        most_connections: open at the same time.
        further: of `uvicorn.Config`.
    """
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        limit_concurrency=most_connections,
        backlog=ACCEPTED_AT_ONCE,
        **further,
    )


class HttpServer(uvicorn.Server):
    """Says when it listens, and ends without an error when it is asked to.

    Args:
        config: as `config` makes it.
        up: called once requests may come.
        signals: end at SIGTERM and SIGINT; else whoever runs it sets `should_exit`.
    """

    def __init__(
        self, config: uvicorn.Config, up: Callable[[], None], signals: bool = False
    ) -> None:
        super().__init__(config)
        self._up = up
        self._signals = (signal.SIGTERM, signal.SIGINT) if signals else ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        for each in sockets or ():
            each.listen(WAITING)  # uvicorn's backlog is also how many asyncio accepts at once
        self._up()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Begin to stop at the first signal; at the second, do not wait for answers."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)


class _Protocol(H11Protocol):
    """A connection. Where there are too many, the one that was idle for longest is closed."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins idle; another one, or if all are busy itself, makes room for it."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._reads_head = False
        self._closing: asyncio.TimerHandle | None = None
        self._closes_in(KEEP_ALIVE_SECONDS)
        if len(self.connections) >= (self.limit_concurrency or 0):
            others = (own for own in self.connections if isinstance(own, _Protocol))
            longest = min((own for own in others if own._idle), key=lambda own: own._idle_since)
            self.connections.discard(longest)
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """The head of a request has its time."""
        super().data_received(data)
        if not self._idle:
            self._reads_head = False
            self._closes_in(None)
        elif not self._reads_head:
            self._reads_head = True
            self._closes_in(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer holds it."""
        self._closes_in(None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """It is idle again."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _closes_in(self, seconds: float | None) -> None:
        """Unless a request begins; None: not at all."""
        if self._closing is not None:
            self._closing.cancel()
            self._closing = None
        if seconds is not None:
            self._closing = self.loop.call_later(seconds, self.transport.abort)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete
