"""Payloads that arrive together are decoded together, off the event loop."""

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
    """One decode pass at a time; what comes meanwhile forms the next, so nobody waits for a batch
    to fill.

    Args:
        decode_many: blocking; one result or error per payload.
        max_batch: payloads of one pass.
        max_waiting: payloads that may wait; one more is refused.
        observe: told the size of every pass.
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
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="decode")
        self._pass: asyncio.Task[None] | None = None
        self._observe = observe

    def __len__(self) -> int:
        return len(self._waiting)

    async def decode(self, payload: Payload) -> EngineImage:
        """The image of a payload.

        Raises:
            Overloaded: too many wait already.
            ManifestMismatch, CorruptPayload: as `ImageDecoder.decode_many` says of it.
        """
        if len(self._waiting) >= self._max_waiting:
            raise Overloaded(
                f"expected at most {self._max_waiting} images waiting to be decoded, got one more; "
                "try again in a moment"
            )
        found = asyncio.get_running_loop().create_future()
        self._waiting.append((payload, found))
        if self._pass is None:
            self._pass = asyncio.create_task(self._work())
        result: EngineImage = await found
        return result

    async def close(self) -> None:
        """Let go of the thread; nobody may still wait."""
        await asyncio.to_thread(self._thread.shutdown, wait=True, cancel_futures=True)

    async def _work(self) -> None:
        """Passes until nobody waits."""
        loop = asyncio.get_running_loop()
        while self._waiting:
            taken = [self._waiting.popleft() for _ in range(min(self._max_batch, len(self)))]
            wanted = [(payload, future) for payload, future in taken if not future.done()]
            if not wanted:
                continue
            payloads = [payload for payload, _ in wanted]
            self._observe(len(payloads))
            try:
                results = await loop.run_in_executor(self._thread, self._decode_many, payloads)
            except Exception as error:  # noqa: BLE001 - told to those who wait for it
                results = [error] * len(wanted)
            for (_, future), result in zip(wanted, results, strict=True):
                if future.done():  # its question was given up meanwhile
                    continue
                if isinstance(result, Exception):
                    future.set_exception(result)
                else:
                    future.set_result(result)
        self._pass = None
