"""One answer in the engine: its request, tokens, text and timings."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import torch

from aligned_vq.answers import FinishReason, Timings, TokenChunk, Usage
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.text import StopTexts, TextStream
from cloud_server.engine.transformers.picking import Picker

Emit = Callable[[TokenChunk | BaseException], None]


class RunningAnswer:
    """An answer from its request to its last chunk.

    Args:
        request: the request to answer.
        text: detokenises the answer.
        device: device of the logits.
        emit: called from the engine's thread with every chunk, or with the error that ends the
            answer.
    """

    def __init__(
        self,
        request: EngineRequest,
        text: TextStream,
        device: torch.device,
        emit: Emit,
    ) -> None:
        self.request = request
        self.stop = threading.Event()
        """Set from any thread to end the answer early."""
        self.emit = emit
        self.picker = Picker(request.sampling, device)
        self.max_tokens = len(request.prompt_ids) + request.sampling.max_tokens
        self.last_token = 0
        self.queued_ns = time.perf_counter_ns()
        self.started_ns = self.prefilled_ns = self.queued_ns
        self._text = text
        self._stops = StopTexts(request.sampling.stop)
        self._count = 0

    def add_token(self, token: int, is_end: bool) -> bool:
        """Emit the chunk of the next token; True if the answer is complete.

        Args:
            token: its id.
            is_end: whether it is an end-of-sequence token.
        """
        self.last_token = token
        self._count += 1
        finish: FinishReason | None = None
        if is_end:
            finish = "stop"
        elif self.stop.is_set():
            finish = "cancelled"
        elif self._count >= self.request.sampling.max_tokens:
            finish = "length"
        # The last token also releases incomplete characters and withheld text.
        last = finish is not None
        piece, stopped = self._stops.push(self._text.push(token, last), last)
        # A stop text overrides the other reasons: it ends the text before them.
        if stopped:
            finish = "stop"
        if finish is None:
            self.emit(TokenChunk(piece, (token,)))
        else:
            self._end(piece, (token,), finish)
        return finish is not None

    def end_as_cancelled(self) -> None:
        """End the answer as cancelled before its first token."""
        self.started_ns = self.prefilled_ns = time.perf_counter_ns()
        self._end("", (), "cancelled")

    def _end(self, piece: str, tokens: tuple[int, ...], finish: FinishReason) -> None:
        timings = {
            "wait": self.started_ns - self.queued_ns,
            "prefill": self.prefilled_ns - self.started_ns,
            "decode": time.perf_counter_ns() - self.prefilled_ns,
        }
        usage = Usage(len(self.request.prompt_ids), self._count)
        self.emit(TokenChunk(piece, tokens, finish, usage, Timings(timings)))
