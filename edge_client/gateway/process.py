"""The gateway process: listens, serves, and drains on shutdown."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from functools import partial
from pathlib import Path

from aligned_vq.errors import ConfigError
from edge_client.aio import AsyncEdgeClient
from edge_client.classifier.classifier import EdgeClassifier
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
"""Connections allowed per concurrent request: clients keep idle connections open."""
SEND_BUFFER_BYTES = 65_536
"""Send buffer of a connection; Linux doubles the value for its bookkeeping."""


async def serve(
    target: str,
    bundle: Path,
    edge: EdgeConfig,
    config: GatewayConfig,
    announce: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, then let running answers finish within the drain time.

    Args:
        target: `host:port` of the cloud service, which need not be running yet.
        bundle: directory written by `aligned-vq export`.
        edge: settings of the client.
        config: settings of the gateway.
        announce: called with the URL once the gateway accepts requests.

    Raises:
        ConfigError: a bundle, a key or the address cannot be used.
    """
    raise_limit()  # of descriptors: each connection takes one
    map_large_blocks()  # so that the memory of large bodies returns to the system
    keys = read_keys(config)
    if not keys.required and not config.keyless and not is_loopback(config.host):
        raise ConfigError(
            f"expected an API key to listen beyond loopback, got host {config.host!r} without one; "
            f"give api_keys, api_key_file or ${KEY_VARIABLE}, or listen on 127.0.0.1"
        )
    limits = Limits(
        tuple(edge.image_formats), memory_bytes=MAX_IMAGE_BYTES, seconds=edge.image_seconds
    )
    classifier = None
    if config.classifier:
        classifier = EdgeClassifier(config.classifier, threads=edge.threads)
        classifier.load()
    async with (
        AsyncEdgeClient(target, bundle, edge) as client,
        ImageDecoders(client.encoder.manifest.processor, limits) as decoders,
    ):
        guard = make_app(client, decoders, config, keys, classifier)
        settings = http_server.config(
            guard,
            default_connections(CONNECTIONS_PER_REQUEST * config.max_requests),
            host=config.host,
            port=config.port,
            timeout_graceful_shutdown=int(config.drain_seconds),
        )
        key_watcher = asyncio.create_task(guard.watch())
        try:
            with _listening_socket(config) as listener:
                host, port = listener.getsockname()[:2]
                on_started = partial(announce, f"http://{address(host, port)}")
                await HttpServer(settings, on_started, signals=True).serve([listener])
        finally:
            key_watcher.cancel()


def _listening_socket(config: GatewayConfig) -> socket.socket:
    family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
    # With an explicit protocol: only then does asyncio set TCP_NODELAY on connections, without
    # which Nagle's algorithm delays small pieces of an answer.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # A restart can bind while connections of the last process are in TIME_WAIT.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):  # Linux
            # Inherited by connections: the system closes one whose peer acknowledges no data.
            stall_ms = int(1e3 * config.stall_seconds)
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, stall_ms)
        # A small buffer: sending to a client that does not read blocks, and so is noticed, soon.
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)
        listener.bind((config.host, config.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"expected to listen on {address(config.host, config.port)}, got: {error.strerror}; "
            "choose another host or port"
        ) from error
    return listener
