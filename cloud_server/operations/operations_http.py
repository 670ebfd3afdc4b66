"""HTTP endpoints for operators: health, readiness, metrics, manifests. No question passes here."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_LATEST

from aligned_vq.errors import ConfigError, ManifestMismatch
from cloud_server.decode.served_bundles import ServedBundles, find_bundle
from cloud_server.operations.metrics import Metrics
from protos import http_server
from protos.descriptors import default_connections
from protos.http_server import HttpServer

MAX_CONNECTIONS = 256
"""At most an eighth of the file descriptors. Beyond it the one idle for longest is closed."""


class OperationsHttp:
    """Serves on its own port beside gRPC, in the same event loop.

    Args:
        metrics: of the service.
        bundles: the served bundles.
        alive: returns whether the process can recover without a restart.
        unready_reason: returns why the service does not accept questions; empty if it does.
    """

    def __init__(
        self,
        metrics: Metrics,
        bundles: ServedBundles,
        alive: Callable[[], bool],
        unready_reason: Callable[[], str],
    ) -> None:
        app = FastAPI(title="aligned-vq cloud", docs_url=None, redoc_url=None, openapi_url=None)

        @app.get("/healthz")
        async def healthz() -> Response:
            """200, or 503 if the process must be restarted."""
            text, status = ("ok\n", 200) if alive() else ("the engine is lost\n", 503)
            return Response(text, status, media_type="text/plain")

        @app.get("/readyz")
        async def readyz() -> Response:
            """200 while the service accepts questions, else 503 and the reason."""
            reason = unready_reason()
            text, status = (f"not ready: {reason}\n", 503) if reason else ("ready\n", 200)
            return Response(text, status, media_type="text/plain")

        @app.get("/metrics")
        async def metrics_text() -> Response:
            """The metrics in Prometheus' text format."""
            return Response(metrics.text(), media_type=CONTENT_TYPE_LATEST)

        @app.get("/v1/manifest")
        async def manifest(digest: str = "") -> Response:
            """The default manifest, or the one with this digest in hex digits."""
            try:
                manifest_digest = bytes.fromhex(digest) if digest else next(iter(bundles))
                manifest_json = find_bundle(bundles, manifest_digest).info.manifest_json
            except (ValueError, ManifestMismatch) as error:
                return JSONResponse({"error": str(error)}, 404)
            return Response(manifest_json, media_type="application/json")

        @app.get("/v1/manifests")
        async def manifests() -> list[str]:
            """The digests of all served manifests, in hex digits."""
            return [each.hex() for each in bundles]

        self._app = app
        self.port = 0

    async def start(self, host: str, port: int) -> int:
        """Start to listen; returns the port.

        Raises:
            ConfigError: the address cannot be bound.
        """
        max_connections = default_connections(MAX_CONNECTIONS, 0.125)
        config = http_server.config(self._app, max_connections, host=host, port=port)
        try:
            # Bound here, not by `serve`: the port has to be known, and a failure to be raised.
            listening = config.bind_socket()
        except SystemExit as error:  # what uvicorn raises for an address in use
            raise ConfigError(
                f"expected to listen on {host}:{port} for HTTP, got an address that cannot be "
                "bound; choose another http_port or http_host"
            ) from error
        self.port = listening.getsockname()[1]
        started = asyncio.Event()
        self._server = HttpServer(config, started.set)
        self._serving = asyncio.create_task(self._server.serve([listening]))
        await started.wait()
        return self.port

    async def stop(self) -> None:
        """Stop listening."""
        self._server.should_exit = True
        await self._serving
