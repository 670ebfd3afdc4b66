"""A gateway process: listen, serve, drain."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from aligned_vq.errors import ConfigError
from edge_client.aio import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.credentials import read_token
from edge_client.gateway.app import make_app
from edge_client.gateway.config import KEY_VARIABLE, GatewayConfig
from protos.address import address, is_loopback

CONNECTIONS_PER_REQUEST = 8
"""More connections than requests: clients keep idle ones."""
KEEP_ALIVE_SECONDS = 75
"""Of an idle connection: longer than clients pool theirs, so that it is they who close."""
SEND_BUFFER_BYTES = 65_536
"""Of a connection; the system doubles it for its own needs."""


async def serve(
    target: str,
    bundle: Path,
    edge: EdgeConfig,
    config: GatewayConfig,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers finish within the drain time.

    Args:
        target: `host:port` of the cloud service, which need not be up yet.
        bundle: directory written by `aligned-vq export`.
        edge: settings of the client.
        config: settings of the gateway.
        announce: told the URL once requests may come.

    Raises:
        ConfigError: the bundle, the key or the address cannot be used.
    """
    key = read_token(config.api_key_file, KEY_VARIABLE)
    if key is None and not config.keyless and not is_loopback(config.host):
        raise ConfigError(
            f"expected an API key to listen beyond loopback, got host {config.host!r} without one; "
            f"give api_key_file or ${KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    async with AsyncEdgeClient(target, bundle, edge) as client:
        server = _Server(
            uvicorn.Config(
                make_app(client, config, key),
                host=config.host,
                port=config.port,
                lifespan="off",
                http=_Protocol,
                ws="none",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_keep_alive=KEEP_ALIVE_SECONDS,
                limit_concurrency=CONNECTIONS_PER_REQUEST * config.max_requests,
                timeout_graceful_shutdown=int(config.drain_seconds),
            ),
            announce,
        )
        with _listening(config) as listening:
            await server.serve([listening])


def _listening(config: GatewayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With its protocol named: asyncio lets small pieces wait for each other (Nagle) on others.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            # Of every connection: one that takes no bytes for so long is ended by the system.
            stall_ms = int(1e3 * config.stall_seconds)
            listening.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
        # A client that does not read is noticed before the system's own large buffer is full.
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listening.bind((config.host, config.port))
    except OSError as error:
        listening.close()
        raise ConfigError(
            f"expected to listen on {address(config.host, config.port)}, got: {error.strerror}; "
            "choose another host or port"
        ) from error
    return listening


class _Protocol(H11Protocol):
    """A connection. Where there are too many, the one that was idle for longest is closed.

    So whoever connects and says nothing, or never ends the head of a request, keeps nobody out; no
    clock is needed for that.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """It begins idle; another one, or if all are busy itself, makes room for it."""
        super().connection_made(transport)
        self._idle_since = self.loop.time()
        if len(self.connections) == self.limit_concurrency:
            others = (own for own in self.connections if isinstance(own, _Protocol))
            longest = min((own for own in others if own._idle), key=lambda own: own._idle_since)
            self.connections.discard(longest)
            longest.transport.abort()

    def on_response_complete(self) -> None:
        """It is idle again."""
        self._idle_since = self.loop.time()
        super().on_response_complete()

    @property
    def _idle(self) -> bool:
        return self.cycle is None or self.cycle.response_complete


class _Server(uvicorn.Server):
    """Tells where it listens, and ends without an error when it is asked to."""

    def __init__(self, config: uvicorn.Config, announce: Callable[[str], None]) -> None:
        super().__init__(config)
        self._announce = announce

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        assert sockets is not None
        host, port = sockets[0].getsockname()[:2]
        self._announce(f"http://{address(host, port)}")

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Begin to stop at the first signal; at the second, do not wait for answers."""
        loop = asyncio.get_running_loop()
        signals = (signal.SIGTERM, signal.SIGINT)
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)
