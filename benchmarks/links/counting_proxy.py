"""A TCP proxy that counts bytes at the socket, in both directions."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Self

_CHUNK_BYTES = 65_536


@dataclass
class SocketBytes:
    """Bytes from client to server (up) and back (down), with HTTP/2 but without TCP/IP headers."""

    up: int = 0
    down: int = 0


class CountingProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `target_port` there; a context manager.

    A change of `target_port` affects later connections only.
    """

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._lock = threading.Lock()
        self._bytes = SocketBytes()
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def take(self) -> SocketBytes:
        """Bytes since the last call of `take`; resets the count."""
        with self._lock:
            taken, self._bytes = self._bytes, SocketBytes()
        return taken

    def settled(self, quiet_seconds: float) -> SocketBytes:
        """`take`, but only after no bytes have passed for `quiet_seconds`."""
        previous = None
        while previous != (total := self._total()):
            previous = total
            time.sleep(quiet_seconds)
        return self.take()

    def _total(self) -> int:
        with self._lock:
            return self._bytes.up + self._bytes.down

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:  # the proxy was closed, or the target does not listen any more
                return
            self._sockets += [client, server]
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(
                    target=self._forward, args=(source, sink, direction), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                # Counted before they are sent: a client that has its answer has been counted.
                with self._lock:
                    setattr(self._bytes, direction, getattr(self._bytes, direction) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)  # half-close: the other direction may still carry data
        except OSError:  # one side closed the connection
            sink.close()
