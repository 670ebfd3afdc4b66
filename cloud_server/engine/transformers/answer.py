"""One answer on its way through the engine: what it needs, and what is told of it."""

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
    """A request with its picker, its text so far and its times.

    Args:
        request: what was asked.
        text: turns its tokens into text.
        device: of the logits it picks from.
        emit: told every piece, or the error that ended it; from the engine's thread.
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
        """Set when nobody waits for the answer any more."""
        self.emit = emit
        self.picker = Picker(request.sampling, device)
        self.need = len(request.prompt_ids) + request.sampling.max_tokens
        self.token = 0
        self.asked_ns = time.perf_counter_ns()
        self.started_ns = self.prefilled_ns = self.asked_ns
        self._text = text
        self._stops = StopTexts(request.sampling.stop)
        self._count = 0

    def take(self, token: int, ends: bool) -> bool:
        """Tell what a token adds; was it the last?"""
        self.token = token
        self._count += 1
        finish: FinishReason | None = None
        if ends:
            finish = "stop"
        elif self.stop.is_set():
            finish = "cancelled"
        elif self._count >= self.request.sampling.max_tokens:
            finish = "length"
        last = finish is not None
        piece, stopped = self._stops.push(self._text.push(token, last), last)
        if stopped:
            finish = "stop"
        if finish is None:
            self.emit(TokenChunk(piece, (token,)))
        else:
            self._end(piece, (token,), finish)
        return finish is not None

    def cancelled(self) -> None:
        """End before the first token."""
        self.started_ns = self.prefilled_ns = time.perf_counter_ns()
        self._end("", (), "cancelled")

    def _end(self, piece: str, tokens: tuple[int, ...], finish: FinishReason) -> None:
        timings = {
            "wait": self.started_ns - self.asked_ns,
            "prefill": self.prefilled_ns - self.started_ns,
            "decode": time.perf_counter_ns() - self.prefilled_ns,
        }
        usage = Usage(len(self.request.prompt_ids), self._count)
        self.emit(TokenChunk(piece, tokens, finish, usage, Timings(timings)))
