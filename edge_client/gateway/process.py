"""A gateway process: listen, serve, drain."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aligned_vq.errors import ConfigError
from edge_client.aio import AsyncEdgeClient
from edge_client.config import EdgeConfig
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import Limits
from edge_client.gateway.access.keys import read_keys
from edge_client.gateway.app import make_app
from edge_client.gateway.config import KEY_VARIABLE, GatewayConfig
from edge_client.gateway.request_images import MAX_IMAGE_BYTES
from protos import http_server
from protos.address import address, is_loopback
from protos.descriptors import default_connections, raise_limit
from protos.http_server import HttpServer
from protos.memory import map_large_blocks

CONNECTIONS_PER_REQUEST = 8
"""More connections than requests: clients keep idle ones."""
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
        ConfigError: the bundle, a key or the address cannot be used.
    """
    raise_limit()
    map_large_blocks()
    keys = read_keys(config)
    if not keys.wanted and not config.keyless and not is_loopback(config.host):
        raise ConfigError(
            f"expected an API key to listen beyond loopback, got host {config.host!r} without one; "
            f"give api_keys, api_key_file or ${KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    limits = Limits(
        tuple(edge.image_formats), memory_bytes=MAX_IMAGE_BYTES, seconds=edge.image_seconds
    )
    async with (
        AsyncEdgeClient(target, bundle, edge) as client,
        ImageDecoders(client.encoder.manifest.processor, limits) as decoders,
    ):
        guard = make_app(client, decoders, config, keys)
        settings = http_server.config(
            guard,
            default_connections(CONNECTIONS_PER_REQUEST * config.max_requests),
            host=config.host,
            port=config.port,
            timeout_graceful_shutdown=int(config.drain_seconds),
        )
        watching = asyncio.create_task(guard.watch())
        try:
            with _listening(config) as listening:
                host, port = listening.getsockname()[:2]
                up = partial(announce, f"http://{address(host, port)}")
                await HttpServer(settings, up, signals=True).serve([listening])
        finally:
            watching.cancel()


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
