"""Types of generation requests and responses: sampling settings, text chunks, usage, timings.

This module imports no sibling, and neither torch nor grpc.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the language model selects tokens."""

    max_tokens: int = 0
    """Maximum tokens of the answer; 0: the service's default."""
    temperature: float = 0.0
    """0: greedy decoding."""
    top_p: float = 1.0
    """Probability mass of the nucleus to sample from."""
    seed: int | None = None
    """Seed of the random generator, for repeatable sampling."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    """The answer ends before the first of these. User text, so left out of `repr` and logs."""


@dataclass(frozen=True)
class Usage:
    """Token counts of one answer; `prompt_tokens` includes the image's."""

    prompt_tokens: int
    completion_tokens: int
    image_cached: bool = False


@dataclass(frozen=True)
class Timings:
    """Duration of each processing stage in nanoseconds, in the order they ran."""

    stages_ns: dict[str, int] = field(default_factory=dict)

    def total_ns(self) -> int:
        """Sum of all stages."""
        return sum(self.stages_ns.values())


@dataclass(frozen=True)
class TokenChunk:
    """A piece of an answer; the last one carries the finish reason and the usage."""

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None

    def followed_by(self, later: TokenChunk) -> TokenChunk:
        """This chunk and a later one as one chunk; this one must not be the last of its answer."""
        # The later chunk may be the last one, so its other fields count.
        return replace(
            later, text=self.text + later.text, token_ids=self.token_ids + later.token_ids
        )
