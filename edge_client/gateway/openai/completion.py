"""An answer in the format of OpenAI's chat API: one object, or the events of a stream."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import AsyncGenerator, Callable
from typing import Any

from aligned_vq.answers import Usage
from aligned_vq.errors import CloudUnreachable
from edge_client.aio import AsyncAnswerStream
from edge_client.answer import Answer
from edge_client.gateway.openai.refusal import Refusal

Figures = Callable[[Answer], dict[str, Any]]
_END = object()


class Completion:
    """The completion of one request.

    Args:
        stream: the answer as it arrives.
        model: name of the model.
        figures: makes the field `split` of a complete answer; called once.
    """

    def __init__(self, stream: AsyncAnswerStream, model: str, figures: Figures) -> None:
        self._stream = stream
        self._figures = figures
        self._head = {
            "id": f"chatcmpl-{uuid.uuid4().hex}",
            "created": int(time.time()),
            "model": model,
        }
        self._first: object = _END
        self.failure: Exception | None = None
        """The error that ended the events early, if any."""

    async def begin(self) -> None:
        """Wait for the first piece of text: up to then an error can set the HTTP status."""
        self._first = await anext(self._stream, _END)

    async def close(self) -> None:
        """Cancel the question; no effect once the answer ended."""
        await self._stream.aclose()

    async def body(self) -> dict[str, Any]:
        """The body of an answer that is not streamed."""
        async for _ in self._stream:
            pass
        answer = self._answer()
        # Fields that OpenAI's clients read, even if they are always null here.
        message = {"role": "assistant", "content": str(answer), "refusal": None}
        choice = {
            "index": 0,
            "message": message,
            "logprobs": None,
            "finish_reason": _finish_reason(answer),
        }
        return {
            **self._head,
            "object": "chat.completion",
            "choices": [choice],
            "usage": _usage(answer.usage),
            "split": self._figures(answer),
        }

    async def events(self, include_usage: bool) -> AsyncGenerator[bytes, None]:
        """Server-sent events: the role, text, the finish reason with `split`, usage if requested,
        and `[DONE]`. A failure after the first text is the last event instead."""
        usage = {"usage": None} if include_usage else {}
        try:
            # Role and first text in one write, which is one packet.
            first_events = self._chunk({"role": "assistant", "content": ""}, **usage)
            if self._first is not _END:
                first_events += self._chunk({"content": self._first}, **usage)
            yield first_events
            async for piece in self._stream:
                yield self._chunk({"content": piece}, **usage)
            answer = self._answer()
            yield self._chunk({}, _finish_reason(answer), **usage, split=self._figures(answer))
            if include_usage:
                yield _event({**self._chunk_head(), "choices": [], "usage": _usage(answer.usage)})
        except Exception as error:  # noqa: BLE001 - sent as an event: the status is already sent
            self.failure = error
            yield _event(Refusal.of(error).body())
            return
        yield b"data: [DONE]\n\n"

    def _chunk(
        self, delta: dict[str, Any], finish_reason: str | None = None, **fields: Any
    ) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        return _event({**self._chunk_head(), "choices": [choice], **fields})

    def _chunk_head(self) -> dict[str, Any]:
        return {**self._head, "object": "chat.completion.chunk"}

    def _answer(self) -> Answer:
        answer = self._stream.answer
        assert answer is not None  # a stream ends with an answer or an error
        if answer.details.finish_reason == "cancelled":
            raise CloudUnreachable("the service cancelled the answer before its end; ask again")
        return answer


def _finish_reason(answer: Answer) -> str:
    return answer.details.finish_reason


def _usage(usage: Usage) -> dict[str, int]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }


def _event(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps(content, separators=(',', ':'))}\n\n".encode()
