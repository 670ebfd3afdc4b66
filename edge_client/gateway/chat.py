"""What the gateway does for a request: from its bytes to a completion, or to a map of indices."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from aligned_vq.errors import AlignedVQError
from edge_client.aio import AsyncEdgeClient
from edge_client.answer import Answer
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import DecodedView
from edge_client.gateway.access.keys import CALLER
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.delivery import EventStream, unless_gone
from edge_client.gateway.desk import AdmittedRequest, Desk
from edge_client.gateway.index_map import IndexMapRequest, RatesRequest, grid_side, stages_of
from edge_client.gateway.openai.body import announced_bytes, parse, read_body
from edge_client.gateway.openai.chat_request import ChatRequest
from edge_client.gateway.openai.completion import Completion
from edge_client.gateway.openai.conversation import Conversation, read_conversation
from edge_client.gateway.openai.inline_images import Body, without_images
from edge_client.gateway.openai.refusal import Refusal
from edge_client.gateway.request_images import open_image
from edge_client.gateway.split_figures import figures, sizes
from protos.access.quota import Quotas

CLIENT_GONE = 499
SHORT_BYTES = 65_536
"""A body that is longer counts as one with an image until it was read."""
LONG_BYTES = 2**20
"""A body that is longer takes its share of memory, too; images of cameras are."""
LONG_AT_ONCE = 2
"""Bodies of the greatest length."""


class Chat:
    """Answers requests with one client of the cloud.

    Args:
        client: asks the cloud; its owner closes it.
        decoders: decode images; likewise.
        config: limits, and the model's name.
        keyed: whether callers have keys of their own, and so limits.
    """

    def __init__(
        self,
        client: AsyncEdgeClient,
        decoders: ImageDecoders,
        config: GatewayConfig,
        *,
        keyed: bool = False,
    ) -> None:
        self._client = client
        self._decoders = decoders
        self._config = config
        self.manifest = client.encoder.manifest
        self.model = config.model_name or self.manifest.model_id
        limits = (config.requests_per_second, config.burst, config.places_of_one)
        self.desk = Desk(
            config.max_requests,
            LONG_AT_ONCE * config.max_body_mib * 2**20,
            Quotas(*limits, noun="requests") if keyed else None,
        )

    async def complete(self, request: Request) -> Response:
        """The response to a chat completion; raises what `Refusal.of` knows to tell."""
        visit = self.desk.enter("chat", request.scope.get("state", {}).get(CALLER))
        try:
            return await self._answer(request, visit)
        except ClientDisconnect as error:
            visit.leave(error)
            return Response(status_code=CLIENT_GONE)
        except BaseException as error:
            visit.leave(error)
            raise

    async def index_map(self, request: Request) -> Response:
        """The response that shows what a picture is encoded to; raises as `complete` does."""
        return await self._here("index_map", request, self._map)

    async def rates(self, request: Request) -> Response:
        """The response that says what a picture costs at every operating point; raises likewise."""
        return await self._here("rates", request, self._rates)

    async def _here(
        self,
        route: str,
        request: Request,
        work: Callable[[Request, AdmittedRequest], Awaitable[dict[str, Any]]],
    ) -> Response:
        """The response to what is done without the cloud."""
        visit = self.desk.enter(route, request.scope.get("state", {}).get(CALLER))
        failure: BaseException | None = None
        try:
            return JSONResponse(await work(request, visit))
        except BaseException as error:
            failure = error
            if isinstance(error, ClientDisconnect):
                return Response(status_code=CLIENT_GONE)
            raise
        finally:
            visit.leave(failure)
            del failure  # its traceback has this frame

    async def _answer(self, request: Request, visit: AdmittedRequest) -> Response:
        asked, conversation, image = await self._read(request, visit)
        quality = self._quality(asked.quality)
        stream = self._client.stream(
            None if image is None else image.view,
            conversation.question,
            conversation.turns,
            quality=quality,
            **vars(asked.sampling),
        )

        def split(answer: Answer) -> dict[str, Any]:
            visit.answered(answer.details)
            return figures(answer.details, quality, image)

        completion = Completion(stream, self.model, split)
        try:
            await unless_gone(request.receive, completion.begin())
            if not asked.stream:
                response = JSONResponse(await unless_gone(request.receive, completion.whole()))
                visit.leave()
                return response
        except BaseException:
            await completion.close()
            raise

        async def ended(complete: bool) -> None:
            await completion.close()
            visit.leave(completion.failure if complete else ClientDisconnect())

        events = completion.events(asked.include_usage)
        return EventStream(events, self._config.stall_seconds, ended)

    async def _read(
        self, request: Request, visit: AdmittedRequest
    ) -> tuple[ChatRequest, Conversation, DecodedView | None]:
        """The request, checked, with its image decoded."""
        body = await self._body(request, visit)
        asked = parse(ChatRequest, body.json)
        if asked.model != self.model:
            raise self.unknown_model(asked.model)
        asked.check_others()
        conversation = read_conversation(asked.messages)
        url, image = conversation.image_url, None
        if url is not None:
            image = await self._image(request, visit, body, url, conversation.image_param)
        visit.end_image()
        return asked, conversation, image

    async def _image(
        self, request: Request, visit: AdmittedRequest, body: Body, url: str, param: str
    ) -> DecodedView:
        """The image at a place of a request; given up as soon as the client hangs up."""
        visit.begin_image()
        holder = request.scope.get("state", {}).get(CALLER)
        address = request.client.host if request.client else ""
        caller = address if holder is None else f"key {holder.name}"
        work = open_image(self._decoders, url, param, body.images, caller)
        image = await unless_gone(request.receive, work)
        visit.end_image()
        return image

    async def _body(self, request: Request, visit: AdmittedRequest) -> Body:
        limit_bytes = self._config.max_body_mib * 2**20
        length = announced_bytes(request, limit_bytes)
        if length > SHORT_BYTES:
            visit.begin_image(length if length > LONG_BYTES else 0)
        return without_images(await read_body(request, limit_bytes, self._config.body_seconds))

    def _quality(self, name: str | None) -> str | None:
        """The operating point's name, the default's without one; None for raw features."""
        try:
            self._client.encoder.check_quality(name)
        except AlignedVQError as error:
            raise Refusal.of(error, "quality") from error
        return name or next((point.name for point in self.manifest.operating_points), None)

    async def _map(self, request: Request, visit: AdmittedRequest) -> dict[str, Any]:
        body = await self._body(request, visit)
        asked = parse(IndexMapRequest, body.json)
        quality = self._quality(asked.quality)
        image = await self._image(request, visit, body, asked.image, "image")
        made = await self._client.compress(image.view, quality=quality)
        encoded = await asyncio.to_thread(self._client.encoder.unpack, made.payload)
        side = grid_side(encoded.num_tokens)
        return {
            "object": "index_map",
            "quality": quality,
            "payload_bytes": len(made.payload.body),
            "coding": made.payload.coding,
            "grid": [side, side],
            "stages": stages_of(encoded, self.manifest.quantizer),
        }

    async def _rates(self, request: Request, visit: AdmittedRequest) -> dict[str, Any]:
        body = await self._body(request, visit)
        asked = parse(RatesRequest, body.json)
        image = await self._image(request, visit, body, asked.image, "image")
        rates = await self._client.payload_bytes(image.view)
        return {
            "object": "rates",
            "image": sizes(image),
            "rates": [{"quality": name, "payload_bytes": own} for name, own in rates.items()],
        }

    def unknown_model(self, name: str) -> Refusal:
        """What to say to whoever asks another model."""
        return Refusal(
            404,
            f"expected the model {self.model!r}, got {name[:200]!r}; choose the one that is here",
            "model",
            "model_not_found",
        )
