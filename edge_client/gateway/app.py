"""The gateway's routes."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from aligned_vq.errors import AlignedVQError
from edge_client.aio import AsyncEdgeClient
from edge_client.decoding.decoders import ImageDecoders
from edge_client.gateway.access.guard import Guard
from edge_client.gateway.access.keys import Keys
from edge_client.gateway.chat import Chat
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.index_map import grid_side
from edge_client.gateway.openai.refusal import Refusal
from edge_client.gateway.page import add_page
from edge_client.gateway.readiness import Readiness
from protos.address import is_loopback


def make_app(
    client: AsyncEdgeClient, decoders: ImageDecoders, config: GatewayConfig, keys: Keys
) -> Guard:
    """The application behind its guard.

    Args:
        client: asks the cloud; its owner closes it.
        decoders: decode images; likewise.
        config: limits, and the model's name.
        keys: that callers must give, if any.
    """
    app = FastAPI(title="aligned-vq gateway", docs_url=None, redoc_url=None, openapi_url=None)
    chat = Chat(client, decoders, config, keyed=keys.named)
    metrics, encoder = chat.desk.metrics, client.encoder
    metrics.build_info(encoder.backend.name, encoder.digest)
    metrics.targets(client.targets(), lambda name: client.targets()[name])
    _add_openai(app, chat)
    _add_own(app, chat, config.max_body_mib * 2**20)
    _add_operators(app, chat, Readiness(client), not keys.wanted)
    add_page(app)
    _add_errors(app)
    return Guard(app, keys, not keys.wanted or is_loopback(config.host))


def _add_openai(app: FastAPI, chat: Chat) -> None:
    """What OpenAI's clients call."""
    own = {
        "id": chat.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "aligned-vq",
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The one model."""
        return {"object": "list", "data": [own]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """The model, by its name."""
        if name != chat.model:
            raise chat.unknown_model(name)
        return own

    app.add_route("/v1/chat/completions", chat.complete, ["POST"])


def _add_own(app: FastAPI, chat: Chat, max_request_bytes: int) -> None:
    """What the page calls besides."""
    manifest = chat.manifest
    quantizer, tokens = manifest.quantizer, manifest.features.num_tokens

    @app.get("/v1/bundle")
    async def bundle() -> dict[str, Any]:
        """The cut, the codec and its operating points."""
        return {
            "object": "bundle",
            "model": chat.model,
            "manifest": manifest.digest().hex(),
            "split": str(manifest.split),
            "link": manifest.link,
            "num_stages": quantizer.num_quantizers,
            "codebook_sizes": list(quantizer.codebook_sizes),
            "num_tokens": tokens,
            "grid": [grid_side(tokens)] * 2,
            "image_size": list(reversed(manifest.processor.output_size)),
            "qualities": [
                {"name": own.name, "stages": list(own.stages), "max_bytes": own.max_bytes}
                for own in manifest.operating_points
            ],
            "max_request_bytes": max_request_bytes,
        }

    @app.post("/v1/index_map")
    async def index_map(request: Request) -> Response:
        """What a picture is encoded to, by stage and patch."""
        return await chat.index_map(request)

    @app.post("/v1/rates")
    async def rates(request: Request) -> Response:
        """What a picture costs at every operating point."""
        return await chat.rates(request)


def _add_operators(app: FastAPI, chat: Chat, readiness: Readiness, says_why: bool) -> None:
    """Health and metrics. Health is told to everybody, and why it is bad where `says_why`."""

    @app.get("/healthz")
    async def healthz() -> Response:
        """The process runs."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        """Questions may come, or 503: the cloud is not within reach."""
        problem = await readiness.problem()
        if problem and not says_why:
            problem = "the cloud is not within reach"
        words, status = (f"{problem}\n", 503) if problem else ("ready\n", 200)
        return Response(words, status, media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Prometheus' text format."""
        return Response(chat.desk.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    """One shape for every error."""

    async def refused(request: Request, error: Exception) -> Response:
        return Refusal.of(error).response()

    async def not_here(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        words = "expected a path and method of this gateway, got another; see /v1/models"
        return Refusal(status, words, code="unknown_url").response()

    for kind in (Refusal, AlignedVQError, Exception):
        app.add_exception_handler(kind, refused)
    app.add_exception_handler(HTTPException, not_here)
