"""Readiness of the gateway: whether the cloud can be reached, by one shared check at a time."""

from __future__ import annotations

import asyncio
import time

from aligned_vq.errors import AlignedVQError
from edge_client.aio import AsyncEdgeClient

WAIT_SECONDS = 2.0
"""Longest wait for a check; a longer one goes on for the next caller."""
MAX_AGE_SECONDS = 1.0


class Readiness:
    """Checks the connection and the bundle of the cloud service. For one event loop.

    Args:
        client: client of the service.
    """

    def __init__(self, client: AsyncEdgeClient) -> None:
        self._client = client
        self._check: asyncio.Task[str] | None = None
        self._valid_until = 0.0

    async def problem(self) -> str:
        """Why questions cannot be answered now; empty if they can. Takes at most two seconds."""
        if self._check is None or (self._check.done() and time.monotonic() >= self._valid_until):
            self._check = asyncio.create_task(self._run_check())
        # `wait` does not cancel the check at the timeout, nor if this caller is cancelled.
        done, _ = await asyncio.wait({self._check}, timeout=WAIT_SECONDS)
        if not done:
            return "the cloud has not answered yet"
        return self._check.result()

    async def _run_check(self) -> str:
        try:
            await self._client.check()
        except AlignedVQError as error:
            return str(error)
        finally:
            self._valid_until = time.monotonic() + MAX_AGE_SECONDS
        return ""
