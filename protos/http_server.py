"""The HTTP server of the service and the gateway: uvicorn with a limit on connections.

Idle connections stay open while there is room; beyond the limit the one idle for longest is closed.
So a client that connects and sends nothing, or never completes a request's head, keeps nobody out.
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
"""Life of an idle connection: longer than in clients' pools, so that clients close first."""
HEAD_SECONDS = 20.0
"""Longest time from the first byte of a request to the end of its head."""
ACCEPTED_AT_ONCE = 16
"""Few, so that a new connection can send its request before it is the one to be closed."""
WAITING = 1024
"""Connections that the kernel queues until they are accepted."""


def config(app: Any, max_connections: int, **further: Any) -> uvicorn.Config:
    """uvicorn's settings, without access log and with a limit on connections.

    Args:
        app: the ASGI application.
        max_connections: most open connections.
        further: further arguments of `uvicorn.Config`.
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
        # Counts connections, idle ones included; `_Protocol` makes room before it is reached.
        limit_concurrency=max_connections,
        backlog=ACCEPTED_AT_ONCE,
        **further,
    )


class HttpServer(uvicorn.Server):
    """A uvicorn server that reports when it listens, and stops without an error.

    Args:
        config: from the function `config`.
        on_started: called once it accepts requests.
        signals: stop at SIGTERM and SIGINT; otherwise the caller sets `should_exit`.
    """

    def __init__(
        self, config: uvicorn.Config, on_started: Callable[[], None], signals: bool = False
    ) -> None:
        super().__init__(config)
        self._on_started = on_started
        self._signals = (signal.SIGTERM, signal.SIGINT) if signals else ()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen."""
        await super().startup(sockets)
        for listening in sockets or ():
            listening.listen(WAITING)  # uvicorn's backlog is also how many asyncio accepts at once
        self._on_started()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop gracefully at the first signal, at once at the second."""
        loop = asyncio.get_running_loop()
        for number in self._signals:
            # uvicorn's version raises caught signals again after the shutdown.
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in self._signals:
                loop.remove_signal_handler(number)


class _Protocol(H11Protocol):
    """One connection. Beyond the limit, a new one closes the one idle for longest."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start idle. Beyond the limit close the connection idle for longest, possibly this one."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        self._receiving_head = False
        self._close_timer: asyncio.TimerHandle | None = None
        self._close_after(KEEP_ALIVE_SECONDS)
        # uvicorn answers 503 at its limit, so make room before a request is read.
        if len(self.connections) >= (self.limit_concurrency or 0):
            others = (each for each in self.connections if isinstance(each, _Protocol))
            # Never empty: this connection is idle, and `super()` has added it.
            longest = min(
                (each for each in others if each._idle), key=lambda each: each._idle_since
            )
            # `connection_lost` follows in a later step of the loop, too late for uvicorn's count.
            self.connections.discard(longest)
            longest.transport.abort()

    def data_received(self, data: bytes) -> None:
        """Limit the time for a request's head."""
        super().data_received(data)
        if not self._idle:
            self._receiving_head = False
            self._close_after(None)
        # Only the first bytes start the timer: more of them do not extend the time.
        elif not self._receiving_head:
            self._receiving_head = True
            self._close_after(HEAD_SECONDS)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, which would keep a reference."""
        self._close_after(None)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        """Become idle again."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    def _close_after(self, seconds: float | None) -> None:
        """Close the connection after some time; None cancels the timer."""
        if self._close_timer is not None:
            self._close_timer.cancel()
            self._close_timer = None
        if seconds is not None:
            self._close_timer = self.loop.call_later(seconds, self.transport.abort)

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete
