"""Builds the chunks of an answer from the token ids of an external engine."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aligned_vq.answers import FinishReason, Timings, TokenChunk, Usage
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.text import StopTexts, TextStream
from cloud_server.engine.transformers.failures import log_failure


class ChunkBuilder:
    """Builds an answer's chunks from token ids, with the same text and stops behind every engine.

    Args:
        request: the answered request.
        tokenizer: the checkpoint's.
    """

    def __init__(self, request: EngineRequest, tokenizer: Any) -> None:
        self._prompt_tokens = len(request.prompt_ids)
        self._text = TextStream(tokenizer)
        self._stops = StopTexts(request.sampling.stop)
        self.token_ids: list[int] = []
        """All token ids in chunks so far."""
        self._started_ns = time.perf_counter_ns()
        self._first_ns: int | None = None

    @property
    def started(self) -> bool:
        """Whether a token has arrived."""
        return bool(self.token_ids)

    def chunk(self, token_ids: Sequence[int], finish: FinishReason | None) -> TokenChunk:
        """The chunk of these tokens.

        Args:
            token_ids: the next tokens.
            finish: why the engine ended the answer; None while it continues. The chunk's finish
                reason is `stop` if a stop text ends the answer, whatever the engine says; tokens
                after it do not count, and the engine need not generate more.

        Raises:
            EngineError: the tokenizer failed on this answer.
        """
        try:
            return self._chunk(token_ids, finish)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a panic in the Rust tokenizer is no Exception
            log_failure("detokenising an answer failed", error)
            raise EngineError(
                f"expected text for the answer's tokens, got {type(error).__name__} from the "
                "tokenizer; see the service's log, and ask again"
            ) from error

    def _chunk(self, token_ids: Sequence[int], finish: FinishReason | None) -> TokenChunk:
        if token_ids and self._first_ns is None:
            self._first_ns = time.perf_counter_ns()
        pieces = []
        consumed = 0
        stopped = False
        # Token by token, as a stop text may end the answer in the middle.
        while consumed < len(token_ids) and not stopped:
            consumed += 1
            last = finish is not None and consumed == len(token_ids)
            piece, stopped = self._stops.push(self._text.push(token_ids[consumed - 1], last), last)
            pieces.append(piece)
        # No token carries the end, so what the stop texts withhold is released here.
        if finish is not None and not token_ids:
            pieces.append(self._stops.push("", last=True).text)
        reason = "stop" if stopped else finish
        text, tokens = "".join(pieces), tuple(token_ids[:consumed])
        self.token_ids += tokens
        if reason is None:
            return TokenChunk(text, tokens)
        usage = Usage(self._prompt_tokens, len(self.token_ids))
        return TokenChunk(text, tokens, reason, usage, self._timings())

    def _timings(self) -> Timings:
        now = time.perf_counter_ns()
        first = now if self._first_ns is None else self._first_ns
        return Timings({"prefill": first - self._started_ns, "decode": now - first})
