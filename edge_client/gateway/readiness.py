"""Is the cloud within reach? Asked once at a time, however many want to know."""

from __future__ import annotations

import asyncio
import time

from aligned_vq.errors import AlignedVQError
from edge_client.aio import AsyncEdgeClient

WAIT_SECONDS = 2.0
FRESH_SECONDS = 1.0


class Readiness:
    """Asks the cloud which bundle it serves. Used from the event loop only.

    Args:
        client: that asks.
    """

    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client
        self._asking: asyncio.Task[str] | None = None
        self._known_until = 0.0

    async def problem(self) -> str:
        """Why questions cannot be answered now; empty if they can. Known within two seconds."""
        if self._asking is None or (self._asking.done() and time.monotonic() >= self._known_until):
            self._asking = asyncio.create_task(self._ask())
        done, _ = await asyncio.wait({self._asking}, timeout=WAIT_SECONDS)
        if not done:
            return "the cloud has not answered yet"
        return self._asking.result()

    async def _ask(self) -> str:
        try:
            await self._client.check()
        except AlignedVQError as error:
            return str(error)
        finally:
            self._known_until = time.monotonic() + FRESH_SECONDS
        return ""
