"""The interface between lmms-eval's model class and what answers: request, response, responder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from PIL import Image

from aligned_vq.answers import Sampling, Usage


@dataclass(frozen=True)
class ModelRequest:
    """One question, about an RGB image or about text only."""

    name: str
    """Name of the document, for errors."""
    text: str = field(repr=False)
    image: Image.Image | None = field(repr=False)
    sampling: Sampling = field(default_factory=Sampling)


@dataclass(frozen=True)
class ModelResponse:
    """The answer to a request."""

    text: str = field(repr=False)
    usage: Usage
    payload_bytes: int | None
    """Size of the payload body; 0 without an image, None without a codec."""
    message_bytes: int | None = None
    """Size of all gRPC messages sent for the question; None if it was answered in this process."""


class Responder(Protocol):
    """Answers requests, several concurrently."""

    def answer(self, requests: Sequence[ModelRequest]) -> list[ModelResponse]:
        """The responses, in the order of the requests.

        Raises:
            AlignedVQError: a request has no answer; a note on the error says which.
        """
        ...

    def log_likelihood(self, request: ModelRequest, continuation: str) -> tuple[float, bool]:
        """Natural logarithm of the probability that the answer begins with `continuation`, and
        whether the greedy answer begins with it.

        Raises:
            InvalidInput: the request is invalid, or this responder has no probabilities.
        """
        ...

    def close(self) -> None:
        """Release the model, threads and connections."""
        ...


def error_note(request: ModelRequest) -> str:
    """The note on an error that a request caused."""
    return f"while answering {request.name}"
