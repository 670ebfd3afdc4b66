"""What goes to a model and what comes back, whichever way it is asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from aligned_vq.answers import Sampling, Usage


@dataclass(frozen=True)
class ModelRequest:
    """One question, about an RGB picture or about none."""

    name: str
    """Of the document, for errors."""
    text: str = field(repr=False)
    picture: Image.Image | None = field(repr=False)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class ModelResponse:
    """Its answer."""

    text: str = field(repr=False)
    usage: Usage
    payload_bytes: int | None
    """Body of the picture's payload; 0 without a picture, None where no codec is in the way."""
    message_bytes: int | None = None
    """All gRPC messages sent for the question; None where none are."""


class Responder(Protocol):
    """Answers questions, several at once."""

    def answer(self, asked: Sequence[ModelRequest]) -> list[ModelResponse]:
        """In the questions' order.

        Raises:
            AlignedVQError: one of them has no answer; a note says which.
        """
        ...

    def log_likelihood(self, asked: ModelRequest, continuation: str) -> tuple[float, bool]:
        """Natural logarithm of the probability that the answer begins with `continuation`, and
        whether the greedy answer does.

        Raises:
            InvalidInput: the question cannot be asked, or not here.
        """
        ...

    def close(self) -> None:
        """Let go of model, threads and connections."""
        ...


def about(asked: ModelRequest) -> str:
    """The note on an error."""
    return f"while answering {asked.name}"
