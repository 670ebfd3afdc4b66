"""How an answer is asked for, and how it comes: sampling, pieces of text, usage and timings.

This module imports no sibling, and neither torch nor grpc.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

FinishReason = Literal["stop", "length", "cancelled"]


@dataclass(frozen=True)
class Sampling:
    """How the language model picks tokens."""

    max_tokens: int = 0
    """Of the answer; 0 takes the service's default."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Share of the probability to sample from."""
    seed: int | None = None
    """Makes sampling repeatable."""
    stop: tuple[str, ...] = field(default=(), repr=False)
    """The answer ends before the first of these texts; they are the user's, so not in `repr`."""


@dataclass(frozen=True)
class Usage:
    """Tokens of one answer; `prompt_tokens` counts the image's too."""

    prompt_tokens: int
    completion_tokens: int
    image_cached: bool = False


@dataclass(frozen=True)
class Timings:
    """Nanoseconds of each cloud stage, by name, in the order they ran."""

    stages_ns: dict[str, int] = field(default_factory=dict)

    def total_ns(self) -> int:
        """Sum of all stages."""
        return sum(self.stages_ns.values())


@dataclass(frozen=True)
class TokenChunk:
    """A piece of an answer; the last one has a finish reason and the usage."""

    text: str = field(repr=False)
    token_ids: tuple[int, ...] = field(default=(), repr=False)
    finish_reason: FinishReason | None = None
    usage: Usage | None = None
    timings: Timings | None = None

    def followed_by(self, later: TokenChunk) -> TokenChunk:
        """Both as one piece; this one must not be the last."""
        return replace(
            later, text=self.text + later.text, token_ids=self.token_ids + later.token_ids
        )
