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
from edge_client.gateway.body import parse, read_body
from edge_client.gateway.chat_request import ChatRequest
from edge_client.gateway.completion import Completion
from edge_client.gateway.config import GatewayConfig
from edge_client.gateway.conversation import Conversation, read_conversation
from edge_client.gateway.delivery import EventStream, unless_gone
from edge_client.gateway.desk import Desk, Visit
from edge_client.gateway.index_map import IndexMapRequest, RatesRequest, grid_side, stages_of
from edge_client.gateway.pictures import Picture, open_picture
from edge_client.gateway.refusal import Refusal
from edge_client.gateway.split_figures import figures, sizes

CLIENT_GONE = 499
DECODED_AT_ONCE = 2
"""Pictures that are whole in memory; of others there is the file, or what the model sees."""


class Chat:
    """Answers requests with one client of the cloud.

    Args:
        client: asks the cloud; its owner closes it.
        config: limits, and the model's name.
    """

    def __init__(self, client: AsyncEdgeClient, config: GatewayConfig) -> None:
        self._client = client
        self._config = config
        self.manifest = client.encoder.manifest
        self.model = config.model_name or self.manifest.model_id
        self.desk = Desk(config.max_requests)
        self._decoding = asyncio.Semaphore(DECODED_AT_ONCE)

    async def complete(self, request: Request) -> Response:
        """The response to a chat completion; raises what `Refusal.of` knows to tell."""
        visit = self.desk.enter("chat")
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
        self, route: str, request: Request, work: Callable[[bytes], Awaitable[dict[str, Any]]]
    ) -> Response:
        """The response to what is done without the cloud, of the request's body."""
        visit = self.desk.enter(route)
        failure: BaseException | None = None
        try:
            return JSONResponse(await work(await self._body(request)))
        except BaseException as error:
            failure = error
            if isinstance(error, ClientDisconnect):
                return Response(status_code=CLIENT_GONE)
            raise
        finally:
            visit.leave(failure)

    async def _answer(self, request: Request, visit: Visit) -> Response:
        asked, conversation, picture = await self._read(request)
        quality = self._quality(asked.quality)
        stream = self._client.stream(
            None if picture is None else picture.view,
            conversation.question,
            conversation.turns,
            quality=quality,
            **vars(asked.sampling),
        )

        def split(answer: Answer) -> dict[str, Any]:
            visit.answered(answer.details)
            return figures(answer.details, quality, picture)

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

    async def _read(self, request: Request) -> tuple[ChatRequest, Conversation, Picture | None]:
        """The request, checked, with its picture decoded."""
        asked = parse(ChatRequest, await self._body(request))
        if asked.model != self.model:
            raise self.unknown_model(asked.model)
        asked.check_others()
        conversation = read_conversation(asked.messages)
        url, param = conversation.image_url, conversation.image_param
        picture = None if url is None else await self._picture(url, param)
        return asked, conversation, picture

    async def _picture(self, url: str, param: str) -> Picture:
        async with self._decoding:
            return await asyncio.to_thread(open_picture, url, param, self._client.encoder.view)

    async def _body(self, request: Request) -> bytes:
        return await read_body(
            request, self._config.max_body_mib * 2**20, self._config.body_seconds
        )

    def _quality(self, name: str | None) -> str | None:
        """The operating point's name, the default's without one; None for raw features."""
        try:
            self._client.encoder.check_quality(name)
        except AlignedVQError as error:
            raise Refusal.of(error, "quality") from error
        return name or next((point.name for point in self.manifest.operating_points), None)

    async def _map(self, body: bytes) -> dict[str, Any]:
        asked = await asyncio.to_thread(parse, IndexMapRequest, body)
        quality = self._quality(asked.quality)
        picture = await self._picture(asked.image, "image")
        made = await self._client.compress(picture.view, quality=quality)
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

    async def _rates(self, body: bytes) -> dict[str, Any]:
        asked = await asyncio.to_thread(parse, RatesRequest, body)
        picture = await self._picture(asked.image, "image")
        rates = await self._client.payload_bytes(picture.view)
        return {
            "object": "rates",
            "image": sizes(picture),
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
