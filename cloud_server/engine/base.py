"""The interface of language engines."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk


@dataclass(frozen=True)
class EngineRequest:
    """One answer to generate.

    Args:
        request_id: unique among the requests in flight.
        prompt_ids: prompt tokens, with a placeholder for each of the image's N' tokens.
        image: embeddings `[N', H]`, or codebook indices `[N, K]` for engines that rebuild images
            themselves; None for a text-only question.
        sampling: `max_tokens` is at least 1.
        image_key: names the image, or the absence of one, per client; empty disables caching.
    """

    request_id: str
    prompt_ids: Sequence[int] = field(repr=False)
    image: Tensor | None = field(repr=False)
    sampling: Sampling
    image_key: bytes = field(default=b"", repr=False)


class LanguageEngine(Protocol):
    """Generates answers, several concurrently."""

    @property
    def healthy(self) -> bool:
        """Whether it can answer now."""
        ...

    @property
    def lost(self) -> bool:
        """Whether it can never answer again: only a restart of the process recovers."""
        ...

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """Stream one answer.

        Yields:
            Chunks of text; the last has a finish reason and usage.

        Raises:
            EngineError: the engine failed; other requests continue while `healthy` is true.
            CloudUnreachable: no engine can answer at the moment.
        """
        ...

    async def abort(self, request_id: str) -> None:
        """Stop an answer early; its stream ends with the finish reason `cancelled`."""
        ...

    async def warm_up(self) -> None:
        """Answer a blank question, so that the first real one is not slow."""
        ...

    async def close(self) -> None:
        """Stop every answer and the engine's threads."""
        ...
