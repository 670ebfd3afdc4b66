"""A TCP proxy that counts what passes: bytes at the socket, both directions."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import Self

_CHUNK_BYTES = 65_536


@dataclass
class SocketBytes:
    """Bytes seen so far, headers of HTTP/2 included, of TCP and IP not."""

    up: int = 0
    down: int = 0


class CountingProxy:
    """Listens on a free port of 127.0.0.1 and forwards to `target_port` there, which may change for
    connections to come."""

    def __init__(self, target_port: int) -> None:
        self.target_port = target_port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._sockets: list[socket.socket] = [self._listener]
        self._lock = threading.Lock()
        self._seen = SocketBytes()
        self.port: int = self._listener.getsockname()[1]

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._sockets:
            each.close()

    def take(self) -> SocketBytes:
        """What was seen since the last `take`."""
        with self._lock:
            seen, self._seen = self._seen, SocketBytes()
        return seen

    def settled(self, quiet_seconds: float) -> SocketBytes:
        """The same, once nothing has passed for so long."""
        before = None
        while before != (now := self._total()):
            before = now
            time.sleep(quiet_seconds)
        return self.take()

    def _total(self) -> int:
        with self._lock:
            return self._seen.up + self._seen.down

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(("127.0.0.1", self.target_port))
            except OSError:  # closed: the proxy has ended, or its target has
                return
            self._sockets += [client, server]
            for source, sink, direction in ((client, server, "up"), (server, client, "down")):
                threading.Thread(
                    target=self._forward, args=(source, sink, direction), daemon=True
                ).start()

    def _forward(self, source: socket.socket, sink: socket.socket, direction: str) -> None:
        try:
            while data := source.recv(_CHUNK_BYTES):
                with self._lock:
                    setattr(self._seen, direction, getattr(self._seen, direction) + len(data))
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:  # one side hung up
            sink.close()
