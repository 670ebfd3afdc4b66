"""The same client for asyncio: encoding and waiting happen in threads, off the event loop."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Self, Unpack

from edge_client.answer import Answer
from edge_client.client import EdgeClient, SamplingOptions
from edge_client.config import EdgeConfig
from edge_client.encoder import EncodedImage
from edge_client.images import ImageSource
from edge_client.stream import AnswerStream
from protos.messages import ServiceInfo


class AsyncEdgeClient:
    """`EdgeClient` with awaitable verbs; arguments and errors are the same.

    async with AsyncEdgeClient("localhost:50051", "bundle/") as client:
        answer = await client.ask("photo.jpg", "What colour is the star?")

    A cancelled task hangs up its question.
    """

    def __init__(self, target: str, bundle: str | Path, config: EdgeConfig | None = None) -> None:
        self._client = EdgeClient(target, bundle, config)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await asyncio.to_thread(self._client.close)

    async def ask(
        self, image: ImageSource, question: str, **sampling: Unpack[SamplingOptions]
    ) -> Answer:
        """The whole answer; see `EdgeClient.ask`."""
        stream = await asyncio.to_thread(self._client.stream, image, question, **sampling)
        async for _ in _pieces(stream):
            pass
        assert stream.answer is not None  # a stream ends with an answer or an error
        return stream.answer

    async def stream(
        self, image: ImageSource, question: str, **sampling: Unpack[SamplingOptions]
    ) -> AsyncIterator[str]:
        """The pieces of text as they arrive; see `EdgeClient.stream`."""
        stream = await asyncio.to_thread(self._client.stream, image, question, **sampling)
        async for piece in _pieces(stream):
            yield piece

    async def compress(self, image: ImageSource, *, quality: str | None = None) -> EncodedImage:
        """The payload of an image; see `EdgeClient.compress`."""
        return await asyncio.to_thread(self._client.compress, image, quality=quality)

    async def check(self) -> ServiceInfo:
        """Reach the service and compare bundles; see `EdgeClient.check`."""
        return await asyncio.to_thread(self._client.check)


async def _pieces(stream: AnswerStream) -> AsyncIterator[str]:
    """A blocking stream's pieces, each awaited in a thread; hangs up when left early."""

    told: list[str] = []  # and not the results of threads: asyncio's debug log shows those

    def following() -> bool:
        told[:] = itertools.islice(stream, 1)
        return bool(told)

    waiting: asyncio.Future[bool] | None = None
    try:
        while True:
            waiting = asyncio.ensure_future(asyncio.to_thread(following))
            if not await asyncio.shield(waiting):
                return
            yield told[0]
    finally:
        stream.cancel()
        if waiting is not None and not waiting.done():
            await asyncio.wait([waiting])  # the thread ends at once: its call was hung up
            waiting.exception()
