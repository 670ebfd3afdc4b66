"""Terminates TLS in front of a service without TLS, as a reverse proxy does."""

from __future__ import annotations

import asyncio
import ssl
import threading
from pathlib import Path
from typing import Self

_CHUNK_BYTES = 65_536


class TlsTerminator:
    """Listens with TLS on a free port of 127.0.0.1 and forwards decrypted bytes to `target_port`.

    A context manager.

    Args:
        target_port: port of a service on this machine.
        certificate: PEM file with the certificate.
        key: PEM file with its private key.
    """

    def __init__(self, target_port: int, certificate: Path, key: Path) -> None:
        self._target_port = target_port
        self._context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        self._context.load_cert_chain(certificate, key)
        # A loop in a thread: the caller is synchronous and blocks while it asks.
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        starting = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self._server = starting.result(timeout=10)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._stop(), self._loop).result(timeout=10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=10)
        self._loop.close()

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=self._context)

    async def _stop(self) -> None:
        self._server.close()
        others = asyncio.all_tasks() - {asyncio.current_task()}
        for task in others:
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    async def _serve(
        self, client_reader: asyncio.StreamReader, client_writer: asyncio.StreamWriter
    ) -> None:
        service_reader, service_writer = await asyncio.open_connection(
            "127.0.0.1", self._target_port
        )
        try:
            await asyncio.gather(
                _copy(client_reader, service_writer), _copy(service_reader, client_writer)
            )
        except (OSError, asyncio.CancelledError):  # one side disconnected, or the terminator stops
            pass
        finally:
            for writer in (service_writer, client_writer):
                writer.transport.abort()


async def _copy(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    while data := await source.read(_CHUNK_BYTES):
        sink.write(data)
        await sink.drain()
    # Closed as a whole: asyncio cannot close one direction of TLS.
    sink.close()
