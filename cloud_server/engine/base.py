"""What every language engine offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from torch import Tensor

from aligned_vq.types import Sampling, TokenChunk


class LanguageEngine(Protocol):
    """Generates answers; several may run at once."""

    def generate(
        self, request_id: str, prompt_ids: Sequence[int], image_embeds: Tensor, sampling: Sampling
    ) -> AsyncIterator[TokenChunk]:
        """Stream one answer.

        Args:
            request_id: unique among the requests in flight.
            prompt_ids: token ids, with one image placeholder per row of `image_embeds`.
            image_embeds: `[N', H]`.
            sampling: `max_tokens` is at least 1.

        Yields:
            Pieces of text; the last has a finish reason and usage.

        Raises:
            EngineError: the engine failed; other requests go on.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop an answer early; its iterator ends with the reason `cancelled`."""
        ...

    async def warm_up(self) -> None:
        """Answer a question about nothing, so that the first real one is not the slow one."""
        ...

    async def close(self) -> None:
        """Stop every answer and let go of the engine's threads."""
        ...
