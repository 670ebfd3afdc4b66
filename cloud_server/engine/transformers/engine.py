"""The default engine: transformers' language model, answers joining and leaving a running batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from queue import Empty, SimpleQueue
from typing import Any

import torch

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.text import TextStream
from cloud_server.engine.transformers.answer import Emit, RunningAnswer
from cloud_server.engine.transformers.batch import RunningBatch
from cloud_server.engine.transformers.failures import log_failure
from cloud_server.engine.transformers.prefill import Prefill
from cloud_server.engine.transformers.running import RunningAnswers

_log = logging.getLogger(__name__)

JOIN_AT_ONCE = 8
"""Answers that join between two tokens of the others, at most."""
NEW_IMAGES_AT_ONCE = 1
"""Those among them whose image has no keys and values yet: each costs a long forward pass."""
FAILURES_IN_A_ROW = 3
"""Of the engine itself, nothing done between them, that end the running answers; one more ends the
engine."""
REST_SECONDS = 1.0
"""Without a question, after which the memory of answers is given back: making it takes time."""


class TransformersEngine:
    """Greedy or sampled decoding, token for token as `generate` does it for one answer alone.

    One thread runs the model. Answers share its forward passes; the keys and values of an image
    are kept for the next question about it. What goes wrong with one answer ends that one with an
    EngineError. Where nothing is left running after a failure, the engine asks itself something
    tiny, and is lost if that fails, too.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`; its vision tower is not used.
        tokenizer: the checkpoint's.
        parallel_answers: answers in one batch; more wait.
        cache_tokens: of all running answers together, prompts included.
        image_cache_bytes: for keys and values of images.
        observe: told how many answers every forward pass advances; runs on the engine's thread.
        turns: held during a forward pass.
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
        turns = turns or nullcontext()
        self._batch = RunningBatch(llava, parallel_answers, cache_tokens)
        self._prefill = Prefill(llava, self._batch, image_cache_bytes, turns)
        self._running = RunningAnswers(llava, self._batch, self._prefill, turns, observe)
        self._inbox: SimpleQueue[RunningAnswer | None] = SimpleQueue()
        self._waiting: deque[RunningAnswer] = deque()
        self._asked: dict[str, RunningAnswer] = {}
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

        try:
            self._ask(request, emit)
            while True:
                chunk = _told(await chunks.get())
                while chunk.finish_reason is None and not chunks.empty():
                    # The reader is behind: fewer and longer pieces let it catch up.
                    chunk = chunk.followed_by(_told(chunks.get_nowait()))
                yield chunk
                if chunk.finish_reason is not None:
                    return
        except EngineError:
            raise
        except Exception as error:
            raise _engine_error(error) from error
        finally:
            if answer := self._asked.pop(request.request_id, None):
                answer.stop.set()

    def _ask(self, request: EngineRequest, emit: Emit) -> None:
        """Hand a request to the engine's thread."""
        self._prefill.check(request)
        answer = RunningAnswer(request, TextStream(self._tokenizer), self._llava.device, emit)
        if answer.need > self._batch.longest:
            raise EngineError(
                f"expected prompts and answers of at most {self._batch.longest} tokens, got "
                f"{answer.need}; ask for a shorter answer"
            )
        self._asked[request.request_id] = answer
        self._inbox.put(answer)
        if not self.healthy:  # asked last: who ends the thread tells all that were asked before
            raise EngineError("the language model has stopped; ask another replica")

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if answer := self._asked.get(request_id):
            answer.stop.set()

    async def warm_up(self) -> None:
        """See `LanguageEngine.warm_up`."""
        width = self._llava.config.text_config.hidden_size
        embeds = torch.zeros(1, width, device=self._llava.device, dtype=self._llava.dtype)
        ends = self._llava.generation_config.eos_token_id
        prompt = [self._llava.config.image_token_id, ends[0] if isinstance(ends, list) else ends]
        request = EngineRequest("warm-up", prompt, embeds, Sampling(max_tokens=2))
        async for _ in self.generate(request):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        self._closing = True
        for answer in self._asked.values():
            answer.stop.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The engine's thread. Whatever ends it, nobody waits in vain."""
        failure: BaseException = EngineError("the language model was stopped; ask another replica")
        running = self._running
        failures = 0
        try:
            while not self._closing:
                try:
                    self._turn()
                    failures = 0
                except Exception as error:
                    failures += 1
                    log_failure("a turn of the engine failed", error)
                    if failures > FAILURES_IN_A_ROW:
                        raise
                    if failures == FAILURES_IN_A_ROW or not running.in_step:
                        running.fail_all(error)
                if running.suspect and not running:
                    running.check()
        except BaseException as error:  # noqa: BLE001 - told to everyone who waits
            failure = error
            _log.exception("the engine stopped")
        self._closing = True
        for answer in list(self._asked.values()):
            running.tell(answer, failure)

    def _turn(self) -> None:
        """What comes between two tokens, and a token."""
        self._collect()
        self._admit()
        if self._running:
            self._running.advance()

    def _collect(self) -> None:
        """Take in what was asked; wait for it when there is nothing else to do."""
        if not self._running and not self._running.joining and not self._waiting:
            try:
                self._take_in(self._inbox.get(timeout=REST_SECONDS))
            except Empty:
                self._batch.clear()
                self._take_in(self._inbox.get())
        while not self._inbox.empty():
            self._take_in(self._inbox.get_nowait())
        for answer in [a for a in self._waiting if a.stop.is_set()]:
            self._waiting.remove(answer)
            try:
                answer.cancelled()
            except Exception as error:  # noqa: BLE001 - ends that answer
                self._running.end(answer, error)

    def _take_in(self, answer: RunningAnswer | None) -> None:
        if answer is not None:
            self._waiting.append(answer)

    def _admit(self) -> None:
        """Let answers join in the order they came, as far as there is room."""
        joining = self._running.joining
        new_images = 0
        while self._waiting and len(joining) < JOIN_AT_ONCE:
            answer = self._waiting[0]
            needs = [other.need for other in (*joining, answer)]
            try:
                new_images += self._prefill.is_long(answer.request)
                if not self._batch.fits(needs) or new_images > NEW_IMAGES_AT_ONCE:
                    break
                joining.append(self._waiting.popleft())
            except Exception as error:  # noqa: BLE001 - ends that answer
                self._running.end(self._waiting.popleft(), error)
        self._running.join()


def _told(chunk: TokenChunk | BaseException) -> TokenChunk:
    """The piece; what went wrong where the engine tells of a failure instead."""
    if isinstance(chunk, BaseException):
        raise _engine_error(chunk) from chunk
    return chunk


def _engine_error(error: BaseException) -> EngineError:
    """One of its own for whoever is told: in our words if they are, else by the error's type."""
    if isinstance(error, EngineError):
        return EngineError(*error.args)
    return EngineError(
        f"the language model failed on this question ({type(error).__name__}); the service's log "
        "says why"
    )
