"""Encoded images in, what the model sees of them out; each in a process that can be killed."""

from __future__ import annotations

import asyncio
import json
import threading
import traceback
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import Any, Self, TypeVar

from aligned_vq.errors import InvalidInput
from aligned_vq.images.processor import ProcessorSettings
from edge_client.decoding.fork_client import ForkClient, Forked
from edge_client.decoding.job import (
    ASK,
    GRANT,
    Coding,
    DecodedView,
    Limits,
    NotBase64,
    TooCostly,
    decoded_of,
    head_bytes,
    job_fields,
    message,
)
from edge_client.decoding.places import DecodingSlot, DecodingSlots, overloaded

AT_ONCE = 4
"""There may be fewer processors: what takes milliseconds shares them with what takes longer."""
MOST_IDLE = 2
SLICE_SECONDS = 0.15
WAIT_SECONDS = 0.9
MAX_ANSWER_BYTES = 64 * 2**20
"""Of the pixels that the model sees: 4096 x 4096 of them at most."""
_MAX_HEAD_BYTES = 2**16
_PIECE_BYTES = 2**18
_T = TypeVar("_T")


class ImageDecoders:
    """Decodes images, several at a time. For one event loop, which it never holds up.

    Args:
        settings: how the model sees images.
        limits: of each.
    """

    def __init__(self, settings: ProcessorSettings, limits: Limits) -> None:
        self._settings = settings
        self._limits = limits
        self._server = ForkClient(MOST_IDLE)
        self._places = DecodingSlots(AT_ONCE, SLICE_SECONDS, WAIT_SECONDS)

    async def __aenter__(self) -> Self:
        """Be ready before the first image; EngineError where processes cannot be started."""
        await self._server.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """End every process."""
        await self._server.close()

    async def decode(
        self,
        data: bytes | memoryview,
        *,
        coding: Coding = "raw",
        name: str = "the image",
        caller: str = "",
    ) -> DecodedView:
        """What the model sees of an encoded image. A cancelled task ends the decoding at once.

        Args:
            data: the file, or its base64 text.
            coding: which of the two.
            name: of the image, for messages.
            caller: whose image it is; callers take turns.

        Raises:
            InvalidInput: the image cannot be used; of that,
            TooCostly: it takes more time or memory than it may, and
            NotBase64: its text is no base64.
            Overloaded: other images are being decoded.
            EngineError: no process can be had.
        """
        fields = job_fields(name, coding, self._limits, self._settings)
        held = _Held()
        place = DecodingSlot(caller, held)
        await self._server.start()  # after a failure; that is not the image's time
        await self._places.enter(place)
        try:
            async with asyncio.timeout(self._limits.seconds):
                return await _without_cycles(
                    self._decoded(held, place, message(fields, len(data)), data)
                )
        except TimeoutError as error:
            traceback.clear_frames(error.__traceback__)  # as in `_without_cycles`
            raise TooCostly(
                f"expected an image that is decoded within {self._limits.seconds:g} s, but {name} "
                "takes longer: save it anew, smaller or as a baseline JPEG"
            ) from None
        except (EOFError, OSError, ValueError):
            if place.was_ended:
                raise overloaded() from None
            raise TooCostly(
                f"expected an image that can be decoded, but {name} ended its decoder: it is "
                "damaged, or takes more memory than its size explains; save it anew"
            ) from None
        finally:
            self._places.leave(place)
            if held.process is not None:
                self._server.drop(held.process)

    async def _decoded(
        self, held: _Held, place: DecodingSlot, head: bytes, data: bytes | memoryview
    ) -> DecodedView:
        head += bytes(data[:_PIECE_BYTES])
        while True:
            held.process = process = await self._server.take(head)
            try:
                decoded = await self._exchange(process, place, data)
            except (EOFError, OSError):
                # The last image's process, or all of them, may have been killed from outside.
                if place.was_ended or not await self._server.may_have_died_before(process):
                    raise
                held.process = None
                self._server.drop(process)
                continue
            held.process = None
            self._server.keep(process)
            return decoded

    async def _exchange(
        self, forked: Forked, place: DecodingSlot, data: bytes | memoryview
    ) -> DecodedView:
        loop, connection = asyncio.get_running_loop(), forked.connection
        rest = memoryview(data)
        for start in range(_PIECE_BYTES, len(rest), _PIECE_BYTES):
            await loop.sock_sendall(connection, rest[start : start + _PIECE_BYTES])
        first = await _read(forked, len(ASK))
        if first == ASK:
            await self._places.lengthen(place)
            await loop.sock_sendall(connection, GRANT)
            first = await _read(forked, len(ASK))
        length = head_bytes(first)
        if length > _MAX_HEAD_BYTES:
            raise EOFError
        fields = json.loads(await _read(forked, length))
        if "error" in fields:
            raise _error(fields)
        if not 0 < fields["length"] <= MAX_ANSWER_BYTES:
            raise EOFError
        return decoded_of(fields, await _read(forked, fields["length"]))


async def _without_cycles(work: Coroutine[Any, Any, _T]) -> _T:
    """What the work gives. asyncio's frames hold a future or a task, which has the error, which has
    the frames, and one of ours has the image: without care that stays until cycles are collected.
    """
    try:
        return await work
    except BaseException as error:
        traceback.clear_frames(error.__traceback__)
        raise


@dataclass
class _Held:
    """The process that decodes an image, while there is one."""

    process: Forked | None = None

    def used_seconds(self) -> float | None:
        return 0.0 if self.process is None else self.process.used_seconds()

    def slow_down(self) -> None:
        if self.process is not None:
            self.process.slow_down()

    def close(self) -> None:
        if self.process is not None:
            self.process.close()


class BlockingDecoders:
    """The same for callers without an event loop, from any thread; arguments as above.

    The first image starts the processes, which takes some tenths of a second.
    """

    def __init__(self, settings: ProcessorSettings, limits: Limits) -> None:
        self._decoders = ImageDecoders(settings, limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def decode(self, data: bytes, name: str) -> DecodedView:
        """See `ImageDecoders.decode`."""
        return self._run(self._decoders.decode(data, name=name))

    def close(self) -> None:
        """End every process."""
        with self._lock:
            loop = self._loop
        if loop is not None:
            self._run(self._decoders.close())
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
            self._loop = None

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="image-decoders", daemon=True
                )
                self._thread.start()
        waiting = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return waiting.result()
        except BaseException:
            waiting.cancel()
            raise


async def _read(forked: Forked, length: int) -> bytearray:
    """So many bytes; EOFError where the process ended before."""
    loop, read = asyncio.get_running_loop(), bytearray(length)
    rest = memoryview(read)
    while rest:
        count = await loop.sock_recv_into(forked.connection, rest)
        if not count:
            raise EOFError
        rest = rest[count:]
    return read


def _error(fields: dict[str, Any]) -> InvalidInput:
    words = str(fields.get("words", ""))
    match fields["error"]:
        case "base64":
            return NotBase64(words)
        case "invalid":
            return InvalidInput(words)
        case "costly":
            return TooCostly(words)
        case "memory":
            return TooCostly(
                "expected an image that is decoded in the memory of its size, got one that takes "
                "more; save it anew, smaller or as a baseline JPEG"
            )
    return InvalidInput(f"expected an image that can be decoded, got {words} from its decoder")
