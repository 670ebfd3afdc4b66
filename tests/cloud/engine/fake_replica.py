"""An engine replica that is told how to behave, real HTTP and no model, and an engine over some."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Literal, Self

import torch
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse

from aligned_vq.answers import Sampling, TokenChunk
from cloud_server.decode.index_arrays import IndexLayout
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.replicas import ReplicasEngine
from cloud_server.vllm_plugin.endpoint_filter import GENERATE

Mood = Literal[
    "well", "refuses", "dies", "faints", "freezes", "silent", "wrong bundle", "endless", "errs"
]
PROMPT = [1, 4, 4, 9]
TOKENS = [11, 12, 13, 14, 2]


class FakeReplica:
    """Streams what of `TOKENS` is not yet behind `PROMPT`, or does as its mood says: `dies` before
    its first token, `faints` behind its second or `freezes` there, is `silent` for ever, goes on
    for ever (`endless`), or sends an error event."""

    def __init__(self, mood: Mood = "well") -> None:
        self.mood: Mood = mood
        self.health = 200
        self.asked: list[dict[str, Any]] = []
        self.hosts: list[str] = []
        self.left = threading.Event()
        app = FastAPI()
        app.get("/health")(self._health)
        app.post(GENERATE)(self._generate)
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([self._socket],))

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._socket.close()

    @property
    def questions(self) -> list[dict[str, Any]]:
        """What it was asked, but for the question with which it joined."""
        return [own for own in self.asked if not own["request_id"].startswith("blank")]

    async def _health(self) -> Response:
        return Response(status_code=self.health)

    async def _generate(self, request: Request) -> Response:
        body = await request.json()
        self.asked.append(body)
        self.hosts.append(request.headers["host"])
        if self.mood == "wrong bundle":
            return JSONResponse({"error": {"message": "another manifest"}}, 400)
        joining = body["request_id"].startswith("blank")
        if self.mood == "refuses" and not joining:
            return JSONResponse({"error": {"message": "full"}}, 503)
        told = len(body["token_ids"][len(PROMPT) :])
        stream = self._events("well" if joining else self.mood, told)
        return StreamingResponse(stream, media_type="text/event-stream")

    async def _events(self, mood: Mood, count: int) -> AsyncIterator[str]:
        try:
            if mood == "dies":
                raise ConnectionAbortedError
            if mood == "silent":
                await asyncio.sleep(60)
            if mood == "errs":
                yield f"data: {json.dumps({'error': {'message': 'out of memory'}})}\n\n"
                return
            while mood == "endless" or count < len(TOKENS):
                if mood == "faints" and count == 2:
                    raise ConnectionAbortedError
                if mood == "freezes" and count == 2:
                    await asyncio.sleep(60)
                token = TOKENS[count] if count < len(TOKENS) - 1 else 15
                finish = None
                if mood != "endless" and count == len(TOKENS) - 1:
                    token, finish = TOKENS[-1], "stop"
                yield f"data: {json.dumps(_event(token, finish))}\n\n"
                count += 1
                await asyncio.sleep(0.01)
            yield f"data: {json.dumps({'choices': []})}\n\n"
            yield "data: [DONE]\n\n"
        finally:
            self.left.set()


def _event(token: int, finish: str | None) -> dict[str, Any]:
    return {"choices": [{"index": 0, "token_ids": [token], "finish_reason": finish}]}


LAYOUT = IndexLayout(bytes(range(16)), 4, 1, (8, 8))
IMAGE = torch.tensor([[0, -1], [1, 7], [2, -1], [3, 0]], dtype=torch.int16)


class Tokenizer:
    """Writes token 11 as `<11>`; token 2 ends an answer and is not shown."""

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(f"<{own}>" for own in ids if own != 2)


def request(number: int = 0, sampling: Sampling | None = None, key: bytes = b"k") -> EngineRequest:
    return EngineRequest(f"r{number}", PROMPT, IMAGE, sampling or Sampling(16), key)


def session(
    replicas: list[FakeReplica], work: Callable[[ReplicasEngine], Awaitable[None]]
) -> list[int]:
    """Run `work` with an engine over the replicas; a list with one item per retry."""
    retries: list[int] = []

    async def run() -> None:
        urls = [own.url for own in replicas]
        blank = EngineRequest("blank", [4], IMAGE, Sampling(2))
        engine = ReplicasEngine(urls, Tokenizer(), LAYOUT, blank, lambda: retries.append(1))
        engine.replicas._interval_seconds = 0.1
        await engine.warm_up()
        try:
            await work(engine)
        finally:
            await engine.close()

    asyncio.run(run())
    return retries


async def told(engine: ReplicasEngine, asked: EngineRequest) -> list[TokenChunk]:
    return [chunk async for chunk in engine.generate(asked)]


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - of another thread
            await asyncio.sleep(0.02)
