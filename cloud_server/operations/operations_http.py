"""The HTTP face for operators: health, readiness, metrics, manifest. No question passes here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from aligned_vq.errors import ConfigError, ManifestMismatch
from cloud_server.decode.incoming import ServedBundles, bundle_named
from cloud_server.operations.metrics import Metrics
from protos import http_server
from protos.descriptors import default_connections
from protos.http_server import HttpServer

MOST_CONNECTIONS = 256
"""Or an eighth of the descriptors. Where there are more, the one idle for longest is closed."""


class OperationsHttp:
    """Serves on its own port beside gRPC, in the same event loop.

    Args:
        metrics: of the service.
        bundles: what is served.
        alive: False where only a restart of the process recovers.
        trouble: why questions may not come now; empty where they may.
    """

    def __init__(
        self,
        metrics: Metrics,
        bundles: ServedBundles,
        alive: Callable[[], bool],
        trouble: Callable[[], str],
    ) -> None:
        app = FastAPI(title="aligned-vq cloud", docs_url=None, redoc_url=None, openapi_url=None)

        @app.get("/healthz")
        async def healthz() -> Response:
            """The process runs, or 503: it has to be started again."""
            words, status = ("ok\n", 200) if alive() else ("the engine is lost\n", 503)
            return Response(words, status, media_type="text/plain")

        @app.get("/readyz")
        async def readyz() -> Response:
            """Questions may come, or 503 and why not."""
            why = trouble()
            words, status = (f"not ready: {why}\n", 503) if why else ("ready\n", 200)
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
        most = default_connections(MOST_CONNECTIONS, 0.125)
        config = http_server.config(self._app, most, host=host, port=port)
        try:
            listening = config.bind_socket()
        except SystemExit as error:  # uvicorn's way to say that the address is taken
            raise ConfigError(
                f"expected to listen on {host}:{port} for HTTP, got an address that cannot be "
                "bound; choose another http_port"
            ) from error
        self.port = listening.getsockname()[1]
        up = asyncio.Event()
        self._server = HttpServer(config, up.set)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await up.wait()
        return self.port

    async def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        await self._serving
