"""The HTTP face for operators: health, readiness, metrics, manifest. No question passes here."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from aligned_vq.errors import ConfigError, ManifestMismatch
from cloud_server.incoming import ServedBundles, bundle_named
from cloud_server.metrics import Metrics


class HttpFace:
    """Serves on its own port beside gRPC, in the same event loop.

    Args:
        metrics: of the service.
        bundles: what is served.
        alive: False where only a restart of the process recovers.
        ready: may questions come now?
    """

    def __init__(
        self,
        metrics: Metrics,
        bundles: ServedBundles,
        alive: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        app = FastAPI(title="aligned-vq cloud", docs_url=None, redoc_url=None, openapi_url=None)

        @app.get("/healthz")
        async def healthz() -> Response:
            """The process runs, or 503: it has to be started again."""
            words, status = ("ok\n", 200) if alive() else ("the engine is lost\n", 503)
            return Response(words, status, media_type="text/plain")

        @app.get("/readyz")
        async def readyz() -> Response:
            """Questions may come, or 503."""
            words, status = ("ready\n", 200) if ready() else ("not ready\n", 503)
            return Response(words, status, media_type="text/plain")

        @app.get("/metrics")
        async def metrics_text() -> Response:
            """Prometheus' text format."""
            return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

        @app.get("/v1/manifest")
        async def manifest(digest: str = "") -> Response:
            """The first manifest served, or the one with this digest in hex digits."""
            try:
                wanted = bytes.fromhex(digest) if digest else next(iter(bundles))
                found = bundle_named(bundles, wanted).info.manifest_json
            except (ValueError, ManifestMismatch) as error:
                return JSONResponse({"error": str(error)}, 404)
            return Response(found, media_type="application/json")

        @app.get("/v1/manifests")
        async def manifests() -> list[str]:
            """The digests of all that are served, in hex digits."""
            return [own.hex() for own in bundles]

        self._app = app
        self.port = 0

    async def start(self, host: str, port: int) -> int:
        """Listen; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        config = uvicorn.Config(
            self._app, host=host, port=port, log_config=None, access_log=False, lifespan="off"
        )
        try:
            listening = config.bind_socket()
        except SystemExit as error:  # uvicorn's way to say that the address is taken
            raise ConfigError(
                f"expected to listen on {host}:{port} for HTTP, got an address that cannot be "
                "bound; choose another http_port"
            ) from error
        self.port = listening.getsockname()[1]
        self._server = _Server(config)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await self._server.up.wait()
        return self.port

    async def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        await self._serving


class _Server(uvicorn.Server):
    """Leaves signals to the service, which drains before it stops."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.up = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, and say so."""
        await super().startup(sockets)
        self.up.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield
