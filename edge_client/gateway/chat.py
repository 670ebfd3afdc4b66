"""Request handlers of the gateway: chat completions, index maps and payload sizes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from aligned_vq.errors import AlignedVQError
from aligned_vq.images.preparation import Preparation
from edge_client.aio import AsyncEdgeClient
from edge_client.answer import Answer
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import DecodedView
from edge_client.gateway.access.keys import CALLER
from edge_client.gateway.admission import AdmittedRequest, RequestAdmission
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.delivery import EventStream, until_disconnect
from edge_client.gateway.index_map import IndexMapRequest, RatesRequest, grid_side, stages_of
from edge_client.gateway.openai.body import expected_bytes, parse, read_body
from edge_client.gateway.openai.chat_request import ChatRequest
from edge_client.gateway.openai.completion import Completion
from edge_client.gateway.openai.conversation import Conversation, read_conversation
from edge_client.gateway.openai.inline_images import Body, encoded_text, extract_images
from edge_client.gateway.openai.refusal import Refusal
from edge_client.gateway.request_images import open_image
from edge_client.gateway.split_figures import figures, sizes
from protos.access.quota import Quotas

CLIENT_CLOSED_REQUEST = 499
"""Status of a response that nobody receives, as in nginx's log."""
SHORT_BYTES = 65_536
"""A longer body takes an image slot until it is received."""
LONG_BYTES = 2**20
"""A longer body, such as one with a camera's image, reserves memory as well."""
MAX_LONG_BODIES = 2
"""The reserved memory suffices for this many bodies of the maximum size."""


class Chat:
    """Handles requests with one client of the cloud service.

    Args:
        client: client of the cloud service; the caller closes it.
        decoders: decode images; the caller closes them.
        config: limits, and the model's name.
        has_quotas: whether callers have individual keys, and so quotas.
    """

    def __init__(
        self,
        client: AsyncEdgeClient,
        decoders: ImageDecoders,
        config: GatewayConfig,
        *,
        has_quotas: bool = False,
    ) -> None:
        self._client = client
        self._decoders = decoders
        self._config = config
        self.manifest = client.encoder.manifest
        self.model = config.model_name or self.manifest.model_id
        limits = (config.requests_per_second, config.burst, config.slots_per_caller)
        self.admission = RequestAdmission(
            config.max_requests,
            MAX_LONG_BODIES * config.max_body_mib * 2**20,
            Quotas(*limits, noun="requests") if has_quotas else None,
        )

    async def complete(self, request: Request) -> Response:
        """The response to a chat completion. Raises errors that `Refusal.of` converts."""
        admitted = self.admission.admit("chat", request.scope.get("state", {}).get(CALLER))
        try:
            return await self._answer(request, admitted)
        except ClientDisconnect as error:
            admitted.end(error)
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        except BaseException as error:
            admitted.end(error)
            raise

    async def index_map(self, request: Request) -> Response:
        """The response with the indices of an image. Raises as `complete`."""
        return await self.respond_locally("index_map", request, self._index_map)

    async def rates(self, request: Request) -> Response:
        """The response with the payload size of an image at every operating point. Raises as
        `complete`."""
        return await self.respond_locally("rates", request, self._rates)

    async def respond_locally(
        self,
        route: str,
        request: Request,
        work: Callable[[Request, AdmittedRequest], Awaitable[dict[str, Any]]],
    ) -> Response:
        """The response to a request that does not involve the cloud.

        Args:
            route: its name, for log and metrics.
            request: the request.
            work: returns the response's fields.
        """
        admitted = self.admission.admit(route, request.scope.get("state", {}).get(CALLER))
        failure: BaseException | None = None
        try:
            return JSONResponse(await work(request, admitted))
        except BaseException as error:
            failure = error
            if isinstance(error, ClientDisconnect):
                return Response(status_code=CLIENT_CLOSED_REQUEST)
            raise
        finally:
            admitted.end(failure)
            del failure  # its traceback refers to this frame: a cycle that would keep the body

    async def _answer(self, request: Request, admitted: AdmittedRequest) -> Response:
        chat_request, conversation, image = await self._read(request, admitted)
        quality = self._quality(chat_request.quality)
        stream = self._client.stream(
            None if image is None else image.view,
            conversation.question,
            conversation.turns,
            quality=quality,
            **vars(chat_request.sampling),
        )

        def split_fields(answer: Answer) -> dict[str, Any]:
            admitted.record_answer(answer.details)
            return figures(answer.details, quality, image)

        completion = Completion(stream, self.model, split_fields)
        try:
            await until_disconnect(request.receive, completion.begin())
            if not chat_request.stream:
                body = await until_disconnect(request.receive, completion.body())
                response = JSONResponse(body)
                admitted.end()
                return response
        except BaseException:
            await completion.close()
            raise

        # A streamed answer goes on after this method returned: it ends its admission itself.
        async def on_end(complete: bool) -> None:
            await completion.close()
            admitted.end(completion.failure if complete else ClientDisconnect())

        events = completion.events(chat_request.include_usage)
        return EventStream(events, self._config.stall_seconds, on_end)

    async def _read(
        self, request: Request, admitted: AdmittedRequest
    ) -> tuple[ChatRequest, Conversation, DecodedView | None]:
        """The validated request, its conversation and its decoded image."""
        body = await self.body(request, admitted)
        chat_request = parse(ChatRequest, body.json)
        if chat_request.model != self.model:
            raise self.unknown_model(chat_request.model)
        chat_request.check_unread_fields()
        conversation = read_conversation(chat_request.messages)
        url, image = conversation.image_url, None
        if url is not None:
            image = await self.image(request, admitted, body, (url, conversation.image_param))
        admitted.end_image()  # a long body without an image has taken a slot, too
        return chat_request, conversation, image

    async def image(
        self,
        request: Request,
        admitted: AdmittedRequest,
        body: Body,
        location: tuple[str, str],
        preparation: Preparation | None = None,
    ) -> DecodedView:
        """The decoded image of a request; cancelled if the client disconnects.

        Args:
            request: the request.
            admitted: its admission, whose image slot is free afterwards.
            body: of the request.
            location: the image's data URI, and its position in the request, for errors.
            preparation: for another model than the bundle's.
        """
        admitted.begin_image()  # short bodies have not taken an image slot yet
        holder = request.scope.get("state", {}).get(CALLER)
        address = request.client.host if request.client else ""
        # Decoding slots are shared fairly among keys or, without keys, among addresses.
        caller = address if holder is None else f"key {holder.name}"
        text = encoded_text(*location, body.images)
        work = open_image(self._decoders, text, location[1], caller, preparation)
        image = await until_disconnect(request.receive, work)
        admitted.end_image()
        return image

    async def body(self, request: Request, admitted: AdmittedRequest) -> Body:
        """The body of a request; a long one takes an image slot."""
        max_bytes = self._config.max_body_mib * 2**20
        length = expected_bytes(request, max_bytes)
        if length > SHORT_BYTES:
            admitted.begin_image(length if length > LONG_BYTES else 0)
        return extract_images(await read_body(request, max_bytes, self._config.body_seconds))

    def _quality(self, name: str | None) -> str | None:
        """The name of the operating point or, without one, of the default; None for a bundle that
        sends raw features and so has none."""
        try:
            self._client.encoder.check_quality(name)
        except AlignedVQError as error:
            raise Refusal.of(error, "quality") from error
        return name or next((point.name for point in self.manifest.operating_points), None)

    async def _index_map(self, request: Request, admitted: AdmittedRequest) -> dict[str, Any]:
        body = await self.body(request, admitted)
        map_request = parse(IndexMapRequest, body.json)
        quality = self._quality(map_request.quality)
        image = await self.image(request, admitted, body, (map_request.image, "image"))
        payload = (await self._client.compress(image.view, quality=quality)).payload
        encoded = await asyncio.to_thread(self._client.encoder.unpack, payload)
        side = grid_side(encoded.num_tokens)
        return {
            "object": "index_map",
            "quality": quality,
            "payload_bytes": len(payload.body),
            "coding": payload.coding,
            "grid": [side, side],
            "stages": stages_of(encoded, self.manifest.quantizer),
        }

    async def _rates(self, request: Request, admitted: AdmittedRequest) -> dict[str, Any]:
        body = await self.body(request, admitted)
        rates_request = parse(RatesRequest, body.json)
        image = await self.image(request, admitted, body, (rates_request.image, "image"))
        rates = await self._client.payload_bytes(image.view)
        return {
            "object": "rates",
            "image": sizes(image),
            "rates": [{"quality": name, "payload_bytes": size} for name, size in rates.items()],
        }

    def unknown_model(self, name: str) -> Refusal:
        """The error for a model that this gateway does not serve."""
        return Refusal(
            404,
            f"expected the model {self.model!r}, got {name[:200]!r}; use the one of this gateway",
            "model",
            "model_not_found",
        )
