"""Decodes payloads in batches, off the event loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from aligned_vq.errors import Overloaded
from aligned_vq.types import Payload
from cloud_server.decode.image_decoder import EngineImage

DecodeMany = Callable[[Sequence[Payload]], Sequence[EngineImage | Exception]]


class DecodeBatcher:
    """Runs one decode pass at a time. Payloads that arrive during a pass form the next batch, so
    batches grow with the load and a single payload is never delayed.

    Args:
        decode_many: returns one image or error per payload, in order; blocks.
        max_batch: most payloads in one pass.
        max_waiting: most payloads in the queue; one more is refused.
        observe: called with the number of payloads of every pass.
    """

    def __init__(
        self,
        decode_many: DecodeMany,
        max_batch: int,
        max_waiting: int,
        observe: Callable[[int], None] = lambda size: None,
    ) -> None:
        self._decode_many = decode_many
        self._max_batch = max_batch
        self._max_waiting = max_waiting
        self._waiting: deque[tuple[Payload, asyncio.Future[EngineImage]]] = deque()
        # One thread: two passes at once would compete for the same device.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._worker: asyncio.Task[None] | None = None
        self._observe = observe

    def __len__(self) -> int:
        return len(self._waiting)

    async def decode(self, payload: Payload) -> EngineImage:
        """The image of a payload, once a pass has decoded it.

        Raises:
            Overloaded: the queue is full.
            ManifestMismatch, CorruptPayload: the payload is not one of its bundle's.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(
                f"expected at most {self._max_waiting} images waiting to be decoded, got one more; "
                "try again in a moment"
            )
        future = asyncio.get_running_loop().create_future()
        self._waiting.append((payload, future))
        if self._worker is None:
            self._worker = asyncio.create_task(self._run_passes())
        result: EngineImage = await future
        return result

    async def close(self) -> None:
        """Stop the thread. No `decode` may be pending."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _run_passes(self) -> None:
        """Run passes until the queue is empty."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self)))]
            pending = [(payload, future) for payload, future in batch if not future.done()]
            if not pending:
                continue
            payloads = [payload for payload, _ in pending]
            self._observe(len(payloads))
            try:
                results = await loop.run_in_executor(self._thread, self._decode_many, payloads)
            except Exception as error:  # noqa: BLE001 - every waiting `decode` raises it
                results = [error] * len(pending)
            for (_, future), result in zip(pending, results, strict=True):
                if future.done():  # the question was cancelled during the pass
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._worker = None
