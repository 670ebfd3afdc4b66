"""`edge-client` with bugs: exceptions that quote all that may not be told, in several places."""

from __future__ import annotations

from typing import Any, NoReturn

from aligned_vq.types import Payload
from edge_client.aio import AsyncEdgeClient
from edge_client.answer import Answer
from edge_client.cli import main
from edge_client.encoder import EdgeEncoder
from edge_client.gateway.openai import completion

STREAM = AsyncEdgeClient.stream


def _ask(self: AsyncEdgeClient, image: Any, question: str, *more: Any, **options: Any) -> Any:
    if image is not None:
        raise ValueError(f"a bug about {question}")
    return STREAM(self, image, question, *more, **options)


def _finish_reason(answer: Answer) -> NoReturn:
    raise RuntimeError(f"a bug about {answer}")


def _unpack(self: EdgeEncoder, payload: Payload) -> NoReturn:
    raise KeyError(payload.body)


if __name__ == "__main__":
    AsyncEdgeClient.stream = _ask  # type: ignore[method-assign]
    completion._finish_reason = _finish_reason
    EdgeEncoder.unpack = _unpack  # type: ignore[method-assign]
    main()
