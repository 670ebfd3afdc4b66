"""The same client for asyncio: encoding and waiting happen in threads, off the event loop."""

from __future__ import annotations

import asyncio
import contextvars
import itertools
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Self, TypeVar, Unpack

from PIL.Image import Image

from aligned_vq.images.preprocess import View
from edge_client.answer import Answer
from edge_client.client import EdgeClient, History, SamplingOptions
from edge_client.config import EdgeConfig
from edge_client.connection.stream import AnswerStream
from edge_client.encoder import EncodedImage
from edge_client.input.remembered_images import ImageOrPayload
from protos.messages import ServiceInfo

QUESTIONS_AT_ONCE = 64
"""More wait: each question in flight takes a thread."""

T = TypeVar("T")


class AsyncEdgeClient:
    """`EdgeClient` with awaitable verbs; arguments and errors are the same.

    async with AsyncEdgeClient("localhost:50051", "bundle/") as client:
        answer = await client.ask("photo.jpg", "What colour is the star?")

    A cancelled task hangs up its question. `encoder` is that of the client.
    """

    def __init__(
        self, target: str | Sequence[str], bundle: str | Path, config: EdgeConfig | None = None
    ) -> None:
        self._client = EdgeClient(target, bundle, config)
        self.encoder = self._client.encoder
        self._threads = ThreadPoolExecutor(QUESTIONS_AT_ONCE, "edge-client")

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Hang up."""
        await asyncio.to_thread(self._client.close)
        self._threads.shutdown(wait=False)

    async def ask(
        self,
        image: ImageOrPayload | None,
        question: str,
        history: History = (),
        **sampling: Unpack[SamplingOptions],
    ) -> Answer:
        """The whole answer; see `EdgeClient.ask`."""
        stream = self.stream(image, question, history, **sampling)
        async for _ in stream:
            pass
        assert stream.answer is not None  # a stream ends with an answer or an error
        return stream.answer

    def stream(
        self,
        image: ImageOrPayload | None,
        question: str,
        history: History = (),
        **sampling: Unpack[SamplingOptions],
    ) -> AsyncAnswerStream:
        """The pieces of text as they arrive; see `EdgeClient.stream`."""
        asked = partial(self._client.stream, image, question, history, **sampling)
        return AsyncAnswerStream(asked, self._threads)

    async def compress(self, image: ImageOrPayload, *, quality: str | None = None) -> EncodedImage:
        """The payload of an image; see `EdgeClient.compress`."""
        return await self._awaited(partial(self._client.compress, image, quality=quality))

    async def payload_bytes(self, image: Image | View) -> dict[str, int]:
        """What an image costs at each operating point; see `EdgeEncoder.payload_bytes`."""
        return await self._awaited(partial(self.encoder.payload_bytes, image))

    async def check(self) -> ServiceInfo:
        """Reach the service and compare bundles; see `EdgeClient.check`."""
        return await self._awaited(self._client.check)

    def targets(self) -> dict[str, bool]:
        """By address: do questions go there now? See `EdgeClient.targets`."""
        return self._client.targets()

    async def _awaited(self, blocking: Callable[[], T]) -> T:
        return await _in_thread(self._threads, blocking)


class AsyncAnswerStream:
    """`AnswerStream` for `async for`: each piece is awaited in a thread, and none is fetched before
    it is wanted. `answer` holds the whole once the iteration ended; `aclose` hangs up earlier.

    Args:
        ask: opens the blocking stream.
        threads: where it is waited for.
    """

    def __init__(self, ask: Callable[[], AnswerStream], threads: Executor) -> None:
        self._ask = ask
        self._threads = threads
        self._pieces = self._run()
        self.answer: Answer | None = None

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Hang up; harmless once the answer ended."""
        await self._pieces.aclose()

    async def _run(self) -> AsyncGenerator[str, None]:
        opened: list[AnswerStream] = []
        told: list[str] = []  # and not the results of threads: asyncio's debug log shows those
        left = threading.Event()

        def following() -> bool:
            if not opened:  # in one go with the first piece: threads take time to be woken
                opened.append(self._ask())
                if left.is_set():
                    opened[0].cancel()
            told[:] = itertools.islice(opened[0], 1)
            return bool(told)

        waiting: asyncio.Future[bool] | None = None
        try:
            while True:
                waiting = _in_thread(self._threads, following)
                if not await asyncio.shield(waiting):
                    self.answer = opened[0].answer
                    return
                yield told[0]
        finally:
            left.set()
            for stream in opened:
                stream.cancel()
            if waiting is not None and not waiting.done():
                await asyncio.wait([waiting])  # the thread ends at once: its call was hung up
                waiting.exception()


def _in_thread(threads: Executor, blocking: Callable[[], T]) -> asyncio.Future[T]:
    """Its result, once a thread was free; in the context of now, which traces look at."""
    run = contextvars.copy_context().run
    return asyncio.get_running_loop().run_in_executor(threads, run, blocking)
