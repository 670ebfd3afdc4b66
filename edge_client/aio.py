"""The client for asyncio: encoding and network waits happen in threads, off the event loop."""

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

from aligned_vq.images.modality import Pixels
from aligned_vq.images.preprocess import View
from edge_client.answer import Answer
from edge_client.client import EdgeClient, History, SamplingOptions
from edge_client.config import EdgeConfig
from edge_client.connection.stream import AnswerStream
from edge_client.encoder import EncodedImage
from edge_client.input.remembered_images import ImageOrPayload
from protos.messages import ServiceInfo

QUESTIONS_AT_ONCE = 64
"""Limit of questions in flight, each of which takes a thread; further ones wait."""

T = TypeVar("T")


class AsyncEdgeClient:
    """`EdgeClient` with awaitable methods; arguments and errors are the same.

    async with AsyncEdgeClient("localhost:50051", "bundle/") as client:
        answer = await client.ask("photo.jpg", "What colour is the star?")

    Cancelling a task cancels its question.
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
        """Close all connections."""
        await asyncio.to_thread(self._client.close)
        # Without waiting: closing the client has ended the calls of all threads.
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
        open_stream = partial(self._client.stream, image, question, history, **sampling)
        return AsyncAnswerStream(open_stream, self._threads)

    async def compress(
        self, image: ImageOrPayload, *, quality: str | None = None, modality: str = "rgb"
    ) -> EncodedImage:
        """The payload of an image; see `EdgeClient.compress`."""
        work = partial(self._client.compress, image, quality=quality, modality=modality)
        return await _in_thread(self._threads, work)

    async def payload_bytes(self, image: Image | Pixels | View) -> dict[str, int]:
        """Payload body sizes by operating point; see `EdgeEncoder.payload_bytes`."""
        return await _in_thread(self._threads, partial(self.encoder.payload_bytes, image))

    async def check(self) -> ServiceInfo:
        """Reach the service and compare bundles; see `EdgeClient.check`."""
        return await _in_thread(self._threads, self._client.check)

    def targets(self) -> dict[str, bool]:
        """Availability by address; see `EdgeClient.targets`."""
        return self._client.targets()


class AsyncAnswerStream:
    """`AnswerStream` for `async for`: each piece is awaited in a thread, and fetched on demand.

    `answer` holds the whole answer once the iteration ended; `aclose` cancels the question.

    Args:
        open_stream: opens the blocking stream.
        threads: run the blocking stream.
    """

    def __init__(self, open_stream: Callable[[], AnswerStream], threads: Executor) -> None:
        self._open_stream = open_stream
        self._threads = threads
        self._pieces = self._run()
        self.answer: Answer | None = None

    def __aiter__(self) -> AsyncIterator[str]:
        return self._pieces

    async def __anext__(self) -> str:
        return await anext(self._pieces)

    async def aclose(self) -> None:
        """Cancel the question; no effect once the answer ended."""
        await self._pieces.aclose()

    async def _run(self) -> AsyncGenerator[str, None]:
        streams: list[AnswerStream] = []
        # Not returned by the thread: asyncio's debug log shows results, which are user text here.
        pieces: list[str] = []
        closing = threading.Event()

        def fetch_next() -> bool:
            if not streams:  # opened together with the first piece, to save a thread switch
                streams.append(self._open_stream())
                if closing.is_set():
                    streams[0].cancel()
            pieces[:] = itertools.islice(streams[0], 1)
            return bool(pieces)

        fetching: asyncio.Future[bool] | None = None
        try:
            while True:
                fetching = _in_thread(self._threads, fetch_next)
                # Shielded, as cancelling the future would not stop the thread: `finally` does.
                if not await asyncio.shield(fetching):
                    self.answer = streams[0].answer
                    return
                yield pieces[0]
        finally:
            # The thread may be opening the stream right now: it then sees the event.
            closing.set()
            for stream in streams:
                stream.cancel()
            if fetching is not None and not fetching.done():
                await asyncio.wait([fetching])  # ends at once, as its call is cancelled
                fetching.exception()  # marks the exception as retrieved


def _in_thread(threads: Executor, blocking: Callable[[], T]) -> asyncio.Future[T]:
    """The result of a blocking call, run in a thread with the caller's context, so that its spans
    have the right parent."""
    run = contextvars.copy_context().run
    return asyncio.get_running_loop().run_in_executor(threads, run, blocking)
