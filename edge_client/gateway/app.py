"""The HTTP routes of the gateway."""

from __future__ import annotations

import time
from typing import Any

from fastapi import FastAPI, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.exceptions import HTTPException

from aligned_vq.errors import AlignedVQError
from edge_client.aio import AsyncEdgeClient
from edge_client.classifier.classifier import EdgeClassifier
from edge_client.decoding.decoders import ImageDecoders
from edge_client.gateway.access.guard import Guard
from edge_client.gateway.access.keys import Keys
from edge_client.gateway.chat import Chat
from edge_client.gateway.classification.handler import ClassifyHandler
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.index_map import grid_side
from edge_client.gateway.openai.refusal import Refusal
from edge_client.gateway.page import add_page
from edge_client.gateway.readiness import Readiness
from protos.address import is_loopback


def make_app(
    client: AsyncEdgeClient,
    decoders: ImageDecoders,
    config: GatewayConfig,
    keys: Keys,
    classifier: EdgeClassifier | None = None,
) -> Guard:
    """The application with access control in front of it.

    Args:
        client: client of the cloud service; the caller closes it.
        decoders: decode images; the caller closes them.
        config: limits, and the model's name.
        keys: keys that callers must send, if any.
        classifier: recognises labels without the cloud, if the gateway has one.
    """
    # Without FastAPI's documentation pages, which load scripts from other hosts.
    app = FastAPI(title="aligned-vq gateway", docs_url=None, redoc_url=None, openapi_url=None)
    chat = Chat(client, decoders, config, has_quotas=keys.per_caller)
    metrics, encoder = chat.admission.metrics, client.encoder
    metrics.add_build_info(encoder.backend.name, encoder.digest)
    metrics.add_targets(client.targets(), lambda name: client.targets()[name])
    _add_openai_routes(app, chat)
    classify = ClassifyHandler(chat, classifier)
    _add_extension_routes(app, chat, classify, config.max_body_mib * 2**20)
    _add_operator_routes(app, chat, Readiness(client), is_public=not keys.required)
    add_page(app)
    _add_error_handlers(app)
    # Without a key, any page that reaches this port could use the gateway: check Host there, too.
    return Guard(app, keys, not keys.required or is_loopback(config.host))


def _add_openai_routes(app: FastAPI, chat: Chat) -> None:
    """Routes of the OpenAI API."""
    description = {
        "id": chat.model,
        "object": "model",
        "created": int(time.time()),
        "owned_by": "aligned-vq",
    }

    @app.get("/v1/models")
    async def models() -> dict[str, Any]:
        """The list of models, which has one entry."""
        return {"object": "list", "data": [description]}

    @app.get("/v1/models/{name:path}")
    async def model(name: str) -> dict[str, Any]:
        """A model by name."""
        if name != chat.model:
            raise chat.unknown_model(name)
        return description

    app.add_route("/v1/chat/completions", chat.complete, ["POST"])


def _add_extension_routes(
    app: FastAPI, chat: Chat, classify: ClassifyHandler, max_request_bytes: int
) -> None:
    """Routes beyond the OpenAI API, which the page uses."""
    manifest = chat.manifest
    quantizer, tokens = manifest.quantizer, manifest.features.num_tokens

    @app.get("/v1/bundle")
    async def bundle() -> dict[str, Any]:
        """The split, the codec and its operating points, and the classifier, if there is one."""
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
                {"name": point.name, "stages": list(point.stages), "max_bytes": point.max_bytes}
                for point in manifest.operating_points
            ],
            "max_request_bytes": max_request_bytes,
            "modalities": [half.modality for half in manifest.edge_halves],
            "classifier": classify.description(),
        }

    app.add_route("/v1/classify", classify.classify, ["POST"])

    @app.post("/v1/index_map")
    async def index_map(request: Request) -> Response:
        """The indices of an image, by stage and patch."""
        return await chat.index_map(request)

    @app.post("/v1/rates")
    async def rates(request: Request) -> Response:
        """The payload size of an image at every operating point."""
        return await chat.rates(request)


def _add_operator_routes(
    app: FastAPI, chat: Chat, readiness: Readiness, *, is_public: bool
) -> None:
    """Routes for operators.

    Health needs no key, so its details, which contain addresses, are only shown where nothing
    needs one (`is_public`).
    """

    @app.get("/healthz")
    async def healthz() -> Response:
        """200 while the process runs."""
        return Response("ok\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        """200 if the cloud service can be reached, else 503."""
        problem = await readiness.problem()
        if problem and not is_public:
            problem = "the cloud service cannot be reached"
        text, status = (f"{problem}\n", 503) if problem else ("ready\n", 200)
        return Response(text, status, media_type="text/plain")

    @app.get("/metrics")
    async def metrics() -> Response:
        """Metrics in Prometheus' text format."""
        return Response(chat.admission.metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _add_error_handlers(app: FastAPI) -> None:
    """Convert every error to OpenAI's format."""

    async def handle_error(request: Request, error: Exception) -> Response:
        return Refusal.of(error).response()

    async def handle_unknown_url(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        message = "expected a path and method of this gateway, got another; see /v1/models"
        return Refusal(status, message, code="unknown_url").response()

    # Starlette looks for the most specific class of an error.
    for kind in (Refusal, AlignedVQError, Exception):
        app.add_exception_handler(kind, handle_error)
    app.add_exception_handler(HTTPException, handle_unknown_url)
