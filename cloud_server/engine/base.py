"""What every language engine offers."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk


@dataclass(frozen=True)
class EngineRequest:
    """One answer to generate.

    `request_id` is unique among those in flight; `prompt_ids` hold a placeholder for each of the
    image's N' tokens; `image` is embeddings `[N', H]`, or codebook indices `[N, K]` for engines
    that rebuild it themselves, or None for a question about none; `image_key` names it, or none,
    among all tenants' (empty: nothing is to be remembered); `sampling.max_tokens` is at least 1.
    """

    request_id: str
    prompt_ids: Sequence[int] = field(repr=False)
    image: Tensor | None = field(repr=False)
    sampling: Sampling
    image_key: bytes = field(default=b"", repr=False)


class LanguageEngine(Protocol):
    """Generates answers; several may run at once."""

    @property
    def healthy(self) -> bool:
        """Can it answer now?"""
        ...

    @property
    def lost(self) -> bool:
        """True once it never will again: only a restart of the process recovers."""
        ...

    def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """Stream one answer.

        Yields:
            Pieces of text; the last has a finish reason and usage.

        Raises:
            EngineError: the engine failed; other requests go on, unless it is not healthy any more.
            CloudUnreachable: nothing can answer for now.
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
