"""Decodes images to views, each in a separate process that can be killed."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aligned_vq.errors import InvalidInput
from aligned_vq.images.preparation import Preparation
from aligned_vq.images.processor import ProcessorSettings
from edge_client.decoding.decoding_process import DecodingProcess
from edge_client.decoding.fork_client import ForkClient
from edge_client.decoding.job import (
    GRANT_LARGE,
    REQUEST_LARGE,
    Coding,
    DecodedView,
    Limits,
    NotBase64,
    TooCostly,
    header_bytes,
    job_fields,
    message_head,
    view_from_message,
)
from edge_client.decoding.slots import DecodingSlot, DecodingSlots, overloaded

SHORT_SLOTS = 4
"""May exceed the number of processors: quick images then share them with slow ones."""
MAX_IDLE_PROCESSES = 2
SLICE_SECONDS = 0.15
WAIT_SECONDS = 0.9
MAX_VIEW_BYTES = 64 * 2**20
"""Limit of a view's pixels; allows about 4096 x 4096."""
_MAX_HEADER_BYTES = 2**16
_PIECE_BYTES = 2**18
_T = TypeVar("_T")


class ImageDecoders:
    """Decodes images concurrently, for one event loop, which it never blocks.

    Args:
        settings: how images are resized and cropped for the model.
        limits: of each image.
    """

    def __init__(self, settings: ProcessorSettings, limits: Limits) -> None:
        self._preparation = Preparation(settings)
        self._limits = limits
        self._server = ForkClient(MAX_IDLE_PROCESSES)
        self._slots = DecodingSlots(SHORT_SLOTS, SLICE_SECONDS, WAIT_SECONDS)

    async def __aenter__(self) -> Self:
        """Start the fork server before the first image; EngineError if it cannot be started."""
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End all processes."""
        await self._server.close()

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        coding: Coding = "raw",
        name: str = "the image",
        caller: str = "",
        preparation: Preparation | None = None,
    ) -> DecodedView:
        """The model's view of an encoded image. Cancelling the task aborts the decoding at once.

        Args:
            data: the file, or its base64 text.
            coding: which of the two.
            name: of the image, for messages.
            caller: who sent the image; callers are served round-robin.
            preparation: for another model than the one of `settings`.

        Raises:
            InvalidInput: the image cannot be used. Two subclasses say why: TooCostly (it exceeds
                its limits of time or memory) and NotBase64 (its text is not base64).
            Overloaded: all slots are taken, or another image needed this one's.
            EngineError: no process can be started.
        """
        fields = job_fields(name, coding, self._limits, preparation or self._preparation)
        work = _Work()
        slot = DecodingSlot(caller, work)
        await self._server.start()  # a restart must not count against the image's time limit
        await self._slots.acquire(slot)
        try:
            # Elapsed time, which bounds the caller's wait; waiting for the long slot counts, too.
            async with asyncio.timeout(self._limits.seconds):
                return await _without_cycles(
                    self._decode(work, slot, message_head(fields, len(data)), data)
                )
        except TimeoutError as error:
            traceback.clear_frames(error.__traceback__)  # as in `_without_cycles`
            raise TooCostly(
                f"expected an image that is decoded within {self._limits.seconds:g} s, but {name} "
                "takes longer: save it again, smaller or as a baseline JPEG"
            ) from None
        except (EOFError, OSError, ValueError):
            if slot.was_aborted:
                raise overloaded() from None
            raise TooCostly(
                f"expected an image that can be decoded, but {name} ended its decoder: it is "
                "damaged, or takes more memory than its size explains; save it again"
            ) from None
        finally:
            self._slots.release(slot)
            # Set only if the job did not finish: such a process cannot take another one.
            if work.process is not None:
                self._server.kill(work.process)

    async def _decode(
        self, work: _Work, slot: DecodingSlot, head: bytes, data: bytes | memoryview
    ) -> DecodedView:
        head += bytes(data[:_PIECE_BYTES])
        while True:
            work.process = process = await self._server.start_job(head)
            try:
                decoded = await self._finish_job(process, slot, data)
            except (EOFError, OSError):
                # The image is not to blame if an idle process, or all of them, died before.
                if slot.was_aborted or not await self._server.may_have_died_before(process):
                    raise
                work.process = None
                self._server.kill(process)
                continue
            work.process = None
            self._server.reuse(process)
            return decoded

    async def _finish_job(
        self, process: DecodingProcess, slot: DecodingSlot, data: bytes | memoryview
    ) -> DecodedView:
        rest = memoryview(data)
        for start in range(_PIECE_BYTES, len(rest), _PIECE_BYTES):
            await process.send(rest[start : start + _PIECE_BYTES])
        prefix = await process.read(len(REQUEST_LARGE))
        if prefix == REQUEST_LARGE:
            await self._slots.acquire_long(slot)
            await process.send(GRANT_LARGE)
            prefix = await process.read(len(REQUEST_LARGE))
        # From here on nothing is trusted: an image may have taken over its decoder.
        length = header_bytes(prefix)
        if length > _MAX_HEADER_BYTES:
            raise EOFError
        fields = json.loads(await process.read(length))
        if "error" in fields:
            raise _error(fields)
        if not 0 < fields["length"] <= MAX_VIEW_BYTES:
            raise EOFError
        return view_from_message(fields, await process.read(fields["length"]))


async def _without_cycles(work: Coroutine[Any, Any, _T]) -> _T:
    """The result of `work`; an error keeps no image alive.

    asyncio's frames refer to a future or task, which refers to the error, whose traceback refers to
    the frames, one of which holds the image. Such a cycle lasts until the garbage collector runs.
    """
    try:
        return await work
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


@dataclass
class _Work:
    """`Work` of the process that decodes an image, while there is one."""

    process: DecodingProcess | None = None

    def used_seconds(self) -> float | None:
        return 0.0 if self.process is None else self.process.used_seconds()

    def slow_down(self) -> None:
        if self.process is not None:
            self.process.slow_down()

    def close(self) -> None:
        if self.process is not None:
            self.process.close()


def _error(fields: dict[str, Any]) -> InvalidInput:
    """The error that a decoding process reported."""
    message = str(fields.get("words", ""))
    match fields["error"]:
        case "base64":
            return NotBase64(message)
        case "invalid":
            return InvalidInput(message)
        case "costly":
            return TooCostly(message)
        case "memory":
            return TooCostly(
                "expected an image that is decoded in the memory that its size explains, got one "
                "that takes more; save it again, smaller or as a baseline JPEG"
            )
    return InvalidInput(f"expected an image that can be decoded, got {message} from its decoder")
