"""The default engine: transformers' language model, answers joining and leaving a running batch."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Any

import torch
from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.budget import ByteBudget
from cloud_server.engine.answer import RunningAnswer
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.batch import RunningBatch
from cloud_server.engine.picking import pick
from cloud_server.engine.text import TextStream

_log = logging.getLogger(__name__)

JOIN_AT_ONCE = 8
"""Answers that join between two tokens of the others, at most."""
NEW_IMAGES_AT_ONCE = 1
"""Those among them whose image has no keys and values yet: each costs a long forward pass."""
REST_SECONDS = 1.0
"""Without a question, after which the memory of answers is given back: making it takes time."""


class TransformersEngine:
    """Greedy or sampled decoding, token for token as `generate` does it for one answer alone.

    One thread runs the model. Answers share its forward passes; the keys and values of an image
    are kept for the next question about it.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`; its vision tower is not used.
        tokenizer: the checkpoint's.
        parallel_answers: answers in one batch; more wait.
        cache_tokens: of all running answers together, prompts included.
        image_cache_bytes: for keys and values of images.
        observe: told how many answers every forward pass advances; runs on the engine's thread.
    """

    def __init__(
        self,
        llava: Any,
        tokenizer: Any,
        parallel_answers: int,
        cache_tokens: int,
        image_cache_bytes: int,
        observe: Callable[[int], None] = lambda size: None,
        turns: AbstractContextManager[None] | None = None,
    ) -> None:
        self._llava = llava
        self._tokenizer = tokenizer
        self._image_token_id: int = llava.config.image_token_id
        ends = llava.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._batch = RunningBatch(llava, parallel_answers, cache_tokens)
        self._prefixes: ByteBudget[Tensor] = ByteBudget(image_cache_bytes, lambda kv: kv.nbytes)
        self._observe = observe
        self._turns = turns or nullcontext()
        self._inbox: SimpleQueue[RunningAnswer | None] = SimpleQueue()
        self._waiting: deque[RunningAnswer] = deque()
        self._running: list[RunningAnswer] = []
        self._stops: dict[str, threading.Event] = {}
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    @property
    def healthy(self) -> bool:
        """See `LanguageEngine.healthy`."""
        return self._thread.is_alive() and not self._closing

    @property
    def lost(self) -> bool:
        """See `LanguageEngine.lost`."""
        return not self.healthy

    @property
    def waiting(self) -> int:
        """Answers that wait for a place."""
        return len(self._waiting) + self._inbox.qsize()

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[TokenChunk | BaseException] = asyncio.Queue()

        def emit(chunk: TokenChunk | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        stop = self._stops[request.request_id] = threading.Event()
        answer = RunningAnswer(request, TextStream(self._tokenizer), self._llava.device, stop, emit)
        if answer.need > self._batch.max_tokens:
            raise EngineError(
                f"expected prompts and answers of at most {self._batch.max_tokens} tokens, got "
                f"{answer.need}; ask for a shorter answer"
            )
        if not self.healthy:
            raise EngineError("the language model has stopped; ask another replica")
        self._inbox.put(answer)
        try:
            while True:
                chunk = _told(await chunks.get())
                while chunk.finish_reason is None and not chunks.empty():
                    # The reader is behind: fewer and longer pieces let it catch up.
                    chunk = chunk.followed_by(_told(chunks.get_nowait()))
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            stop.set()
            self._stops.pop(request.request_id, None)

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if stop := self._stops.get(request_id):
            stop.set()

    async def warm_up(self) -> None:
        """See `LanguageEngine.warm_up`."""
        width = self._llava.config.text_config.hidden_size
        embeds = torch.zeros(1, width, device=self._llava.device, dtype=self._llava.dtype)
        prompt = [self._image_token_id, *self._ends]
        request = EngineRequest("warm-up", prompt, embeds, Sampling(max_tokens=2))
        async for _ in self.generate(request):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        self._closing = True
        for stop in self._stops.values():
            stop.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The engine's thread. Nothing but a bug ends it early, and then nobody waits in vain."""
        failure: BaseException = EngineError("the engine was closed")
        try:
            while not self._closing:
                self._collect()
                self._admit()
                if self._running:
                    self._advance()
        except BaseException as error:  # noqa: BLE001 - told to everyone who waits
            failure = error
            _log.exception("the engine stopped")
        self._closing = True
        for answer in (*self._running, *self._waiting, *self._collected()):
            answer.emit(failure)

    def _collect(self) -> None:
        """Take in what was asked; wait for it when there is nothing else to do."""
        if not self._running and not self._waiting:
            try:
                first = self._inbox.get(timeout=REST_SECONDS)
            except Empty:
                self._batch.clear()
                first = self._inbox.get()
            if first is None:
                return
            self._waiting.append(first)
        self._waiting.extend(self._collected())
        for answer in [a for a in self._waiting if a.stop.is_set()]:
            self._waiting.remove(answer)
            answer.cancelled()

    def _collected(self) -> list[RunningAnswer]:
        found: list[RunningAnswer] = []
        while True:
            try:
                answer = self._inbox.get_nowait()
            except Empty:
                return found
            if answer is not None:
                found.append(answer)

    def _admit(self) -> None:
        """Let answers join in the order they came, as far as there is room."""
        group: list[RunningAnswer] = []
        new_images = 0
        while self._waiting and len(group) < JOIN_AT_ONCE:
            answer = self._waiting[0]
            own = answer.request
            new_images += own.image is not None and own.image_key not in self._prefixes
            needs = [other.need for other in (*group, answer)]
            if not self._batch.fits(needs) or new_images > NEW_IMAGES_AT_ONCE:
                break
            group.append(self._waiting.popleft())
        prompts = [(answer, prompt) for answer in group if (prompt := self._prompt(answer))]
        if not prompts:
            return
        joining = [answer for answer, _ in prompts]
        prefixes, tails = zip(*(prompt for _, prompt in prompts), strict=True)
        try:
            with self._turns:
                logits = self._batch.join(prefixes, tails, [answer.need for answer in joining])
                tokens = pick(logits, [answer.picker for answer in joining])
        except Exception as error:  # noqa: BLE001 - told to those it concerns
            self._failed(joining, error)
            self._failed(self._running, error)  # their rows may have been written to
            self._running = []
            self._batch.clear()
            return
        now = time.perf_counter_ns()
        for answer in joining:
            answer.prefilled_ns = now
        first = len(self._running)
        self._running += joining
        self._take(tokens, first)

    def _advance(self) -> None:
        """One more token for every running answer."""
        self._observe(len(self._running))
        try:
            with self._turns:
                logits = self._batch.step([answer.token for answer in self._running])
                tokens = pick(logits, [answer.picker for answer in self._running])
        except Exception as error:  # noqa: BLE001 - told to those it concerns
            self._failed(self._running, error)
            self._running = []
            self._batch.clear()
            return
        self._take(tokens, 0)

    def _take(self, tokens: Sequence[int], first: int) -> None:
        """Give the tokens to the answers from row `first` on; those that end leave."""
        ended = [
            row
            for row, token in enumerate(tokens, first)
            if self._running[row].take(token, token in self._ends)
        ]
        for row in reversed(ended):  # the last row fills the gap, and is not one of them
            self._batch.leave(row)
            self._running[row] = self._running[-1]
            self._running.pop()

    def _prompt(self, answer: RunningAnswer) -> tuple[Tensor | None, Tensor] | None:
        """Keys and values up to the end of the image, if there is one, and embeddings `[T, H]` of
        the rest; None if this answer failed over it."""
        request = answer.request
        answer.started_ns = time.perf_counter_ns()
        try:
            with torch.inference_mode():
                ids = torch.tensor(list(request.prompt_ids), device=self._llava.device)
                places = ids == self._image_token_id
                count = 0 if request.image is None else len(request.image)
                if int(places.sum()) != count:
                    raise ValueError(f"{int(places.sum())} placeholders for {count} embeddings")
                embeds: Tensor = self._llava.get_input_embeddings()(ids)
                if request.image is None:
                    return None, embeds
                cut = min(len(ids) - 1, int(places.nonzero()[-1]) + 1)
                prefix = self._prefixes.get(request.image_key)
                if prefix is None:
                    embeds[places] = request.image.to(embeds)
                    with self._turns:
                        prefix = self._batch.prefix(embeds[:cut])
                    if request.image_key:
                        self._prefixes.put(request.image_key, prefix)
                return prefix, embeds[cut:]
        except Exception as error:  # noqa: BLE001 - told to those it concerns
            self._failed([answer], error)
            return None

    def _failed(self, answers: Sequence[RunningAnswer], error: Exception) -> None:
        _log.error("%d questions failed", len(answers), exc_info=error)
        for answer in answers:
            answer.emit(error)


def _told(chunk: TokenChunk | BaseException) -> TokenChunk:
    """The piece; EngineError where the engine told of a failure instead."""
    if isinstance(chunk, BaseException):
        raise EngineError(
            f"the language model failed on this question ({type(chunk).__name__}); "
            "the service's log says why"
        ) from chunk
    return chunk
