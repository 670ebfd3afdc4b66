"""An answer whose tokens come from elsewhere, told piece by piece."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from aligned_vq.answers import FinishReason, Timings, TokenChunk, Usage
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.text import StopTexts, TextStream
from cloud_server.engine.transformers.failures import log_failure


class TokenPieces:
    """Makes chunks of token ids, so that text and stop texts are the same behind every engine.

    Args:
        request: what was asked.
        tokenizer: the checkpoint's.
    """

    def __init__(self, request: EngineRequest, tokenizer: Any) -> None:
        self._prompt_tokens = len(request.prompt_ids)
        self._text = TextStream(tokenizer)
        self._stops = StopTexts(request.sampling.stop)
        self.token_ids: list[int] = []
        """All that were told."""
        self._asked_ns = time.perf_counter_ns()
        self._first_ns: int | None = None

    @property
    def started(self) -> bool:
        """Has a token come?"""
        return bool(self.token_ids)

    def take(self, token_ids: Sequence[int], finish: FinishReason | None) -> TokenChunk:
        """What these tokens add; `finish` says why they are the last (None: they are not). The
        chunk's own reason is `stop` where a stop text ends the answer: tokens behind it do not
        count, and the engine need not make more.

        Raises:
            EngineError: no text could be made of them; nobody else's answer is concerned.
        """
        try:
            return self._taken(token_ids, finish)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:  # a tokenizer's panic is no Exception
            log_failure("no text could be made of an answer", error)
            raise EngineError(
                f"the service failed to make text of this answer ({type(error).__name__}); its log "
                "says why"
            ) from error

    def _taken(self, token_ids: Sequence[int], finish: FinishReason | None) -> TokenChunk:
        if token_ids and self._first_ns is None:
            self._first_ns = time.perf_counter_ns()
        pieces = []
        taken = 0
        stopped = False
        while taken < len(token_ids) and not stopped:
            taken += 1
            last = finish is not None and taken == len(token_ids)
            piece, stopped = self._stops.push(self._text.push(token_ids[taken - 1], last), last)
            pieces.append(piece)
        if finish is not None and not token_ids:
            pieces.append(self._stops.push("", last=True).text)
        reason = "stop" if stopped else finish
        text, tokens = "".join(pieces), tuple(token_ids[:taken])
        self.token_ids += tokens
        if reason is None:
            return TokenChunk(text, tokens)
        usage = Usage(self._prompt_tokens, len(self.token_ids))
        return TokenChunk(text, tokens, reason, usage, self._timings())

    def _timings(self) -> Timings:
        now = time.perf_counter_ns()
        first = now if self._first_ns is None else self._first_ns
        return Timings({"prefill": first - self._asked_ns, "decode": now - first})
