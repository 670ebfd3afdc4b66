"""Image decoding for callers without an event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from aligned_vq.images.preparation import Preparation
from aligned_vq.images.processor import ProcessorSettings
from edge_client.decoding.decoders import ImageDecoders
from edge_client.decoding.job import DecodedView, Limits

_T = TypeVar("_T")


class BlockingDecoders:
    """`ImageDecoders` for callers without an event loop. Thread-safe.

    The first image starts the fork server, which takes some tenths of a second.
    """

    def __init__(self, settings: ProcessorSettings, limits: Limits) -> None:
        self._decoders = ImageDecoders(settings, limits)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def decode(self, data: bytes, name: str, preparation: Preparation | None = None) -> DecodedView:
        """See `ImageDecoders.decode`."""
        return self._run(self._decoders.decode(data, name=name, preparation=preparation))

    def close(self) -> None:
        """End all processes."""
        with self._lock:
            loop = self._loop
        if loop is not None:
            self._run(self._decoders.close())
            loop.call_soon_threadsafe(loop.stop)
            self._thread.join()
            loop.close()
            self._loop = None

    def _run(self, work: Coroutine[Any, Any, _T]) -> _T:
        # Lazily: a client whose images need no decoding starts neither loop nor processes.
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._thread = threading.Thread(
                    target=self._loop.run_forever, name="image-decoders", daemon=True
                )
                self._thread.start()
        future = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()
            raise
