"""The default engine: transformers' language model, answers joining and leaving a running batch."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
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

MAX_JOINING = 8
"""Most answers that join between two tokens of the others."""
MAX_NEW_IMAGES = 1
"""Most of those whose image has no keys and values yet: each costs a long forward pass."""
MAX_CONSECUTIVE_FAILURES = 3
"""Failed iterations in a row that end the running answers; one more ends the engine."""
IDLE_SECONDS = 1.0
"""Idle time after which the answers' memory is freed; not sooner, as allocating it takes time."""


@dataclass(frozen=True)
class EngineCapacity:
    """How much a `TransformersEngine` may hold at a time.

    Args:
        parallel_answers: answers in one batch; further ones wait.
        cache_tokens: tokens of all running answers together, prompts included.
        prefix_cache_bytes: budget for keys and values of images.
    """

    parallel_answers: int
    cache_tokens: int
    prefix_cache_bytes: int


class TransformersEngine:
    """Greedy or sampled decoding; each answer has the tokens that `generate` yields for it alone.

    One thread runs the model. Answers share its forward passes, and the keys and values of an image
    are cached for further questions about it. A failure on one answer ends only that one, with an
    EngineError. If a failure leaves no answer running, the engine runs a minimal pass, and is lost
    if that fails as well.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`; its vision tower is not used.
        tokenizer: the checkpoint's.
        capacity: sizes of the batch and the caches.
        observe: called on the engine's thread with the number of answers of every forward pass.
        compute_lock: held during a forward pass.
    """

    def __init__(
        self,
        llava: Any,
        tokenizer: Any,
        capacity: EngineCapacity,
        observe: Callable[[int], None] = lambda size: None,
        compute_lock: AbstractContextManager[None] | None = None,
    ) -> None:
        self._llava = llava
        self._tokenizer = tokenizer
        compute_lock = compute_lock or nullcontext()
        self._batch = RunningBatch(llava, capacity.parallel_answers, capacity.cache_tokens)
        self._prefill = Prefill(llava, self._batch, capacity.prefix_cache_bytes, compute_lock)
        self._running = RunningAnswers(llava, self._batch, self._prefill, compute_lock, observe)
        self._inbox: SimpleQueue[RunningAnswer | None] = SimpleQueue()
        self._waiting: deque[RunningAnswer] = deque()
        self._answers: dict[str, RunningAnswer] = {}
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
        """Answers waiting for a slot in the batch."""
        return len(self._waiting) + self._inbox.qsize()

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[TokenChunk | BaseException] = asyncio.Queue()

        def emit(chunk: TokenChunk | BaseException) -> None:
            # The reader's loop may have ended, in tests or at exit.
            if not loop.is_closed():
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        try:
            self._submit(request, emit)
            while True:
                chunk = _unwrap(await chunks.get())
                while chunk.finish_reason is None and not chunks.empty():
                    # The reader is slow: merge the pending chunks so that it can catch up.
                    chunk = chunk.followed_by(_unwrap(chunks.get_nowait()))
                yield chunk
                if chunk.finish_reason is not None:
                    return
        except EngineError:
            raise
        except Exception as error:
            raise _engine_error(error) from error
        finally:
            if answer := self._answers.pop(request.request_id, None):
                answer.stop.set()

    def _submit(self, request: EngineRequest, emit: Emit) -> None:
        """Pass a request to the engine's thread."""
        self._prefill.check(request)
        answer = RunningAnswer(request, TextStream(self._tokenizer), self._llava.device, emit)
        if answer.max_tokens > self._batch.max_row_tokens:
            raise EngineError(
                f"expected prompts and answers of at most {self._batch.max_row_tokens} tokens, got "
                f"{answer.max_tokens}; ask for a shorter answer"
            )
        self._answers[request.request_id] = answer
        self._inbox.put(answer)
        # Checked after queueing: the thread fails all queued answers when it ends, so an
        # answer is either failed by it or refused here, never forgotten.
        if not self.healthy:
            raise EngineError(
                "expected a running language model, got a stopped one; ask another replica"
            )

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if answer := self._answers.get(request_id):
            answer.stop.set()

    async def warm_up(self) -> None:
        """See `LanguageEngine.warm_up`."""
        width = self._llava.config.text_config.hidden_size
        embeds = torch.zeros(1, width, device=self._llava.device, dtype=self._llava.dtype)
        end_tokens = self._llava.generation_config.eos_token_id
        prompt = [
            self._llava.config.image_token_id,
            end_tokens[0] if isinstance(end_tokens, list) else end_tokens,
        ]
        request = EngineRequest("warm-up", prompt, embeds, Sampling(max_tokens=2))
        async for _ in self.generate(request):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        self._closing = True
        for answer in self._answers.values():
            answer.stop.set()
        self._inbox.put(None)
        await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        """The engine's thread. However it ends, every waiting reader gets an error."""
        failure: BaseException = EngineError(
            "expected a running language model, got one that was stopped; ask another replica"
        )
        running = self._running
        failures = 0
        try:
            while not self._closing:
                try:
                    self._iterate()
                    failures = 0
                except Exception as error:
                    failures += 1
                    log_failure("an iteration of the engine failed", error)
                    if failures > MAX_CONSECUTIVE_FAILURES:
                        raise
                    # An inconsistent batch cannot be continued, however few failures there were.
                    if failures == MAX_CONSECUTIVE_FAILURES or not running.consistent:
                        running.fail_all(error)
                if running.suspect and not running:
                    running.check()
        except BaseException as error:  # noqa: BLE001 - every waiting reader raises it
            failure = error
            _log.exception("the engine stopped")
        # Before the answers are notified: `_submit` checks it after it has queued one.
        self._closing = True
        # A copy, as readers remove their answers meanwhile.
        for answer in list(self._answers.values()):
            running.notify(answer, failure)

    def _iterate(self) -> None:
        """Let answers join, then generate one token of each."""
        self._collect()
        self._admit()
        if self._running:
            self._running.advance()

    def _collect(self) -> None:
        """Move new requests from the inbox to the queue; block if there is nothing else to do."""
        if not self._running and not self._running.joining and not self._waiting:
            try:
                self._enqueue(self._inbox.get(timeout=IDLE_SECONDS))
            except Empty:
                # Idle for a while: free the rows, then wait without a timeout.
                self._batch.clear()
                self._enqueue(self._inbox.get())
        while not self._inbox.empty():
            self._enqueue(self._inbox.get_nowait())
        for answer in [a for a in self._waiting if a.stop.is_set()]:
            self._waiting.remove(answer)
            try:
                answer.end_as_cancelled()
            except Exception as error:  # noqa: BLE001 - ends that answer
                self._running.end(answer, error)

    def _enqueue(self, answer: RunningAnswer | None) -> None:
        if answer is not None:
            self._waiting.append(answer)

    def _admit(self) -> None:
        """Let queued answers join in order, as far as capacity allows."""
        joining = self._running.joining
        new_images = 0
        while self._waiting and len(joining) < MAX_JOINING:
            answer = self._waiting[0]
            reservations = [other.max_tokens for other in (*joining, answer)]
            try:
                # Strictly in order: a large answer at the front is not overtaken, or it might wait
                # for ever.
                new_images += self._prefill.needs_prefix(answer.request)
                if not self._batch.fits(reservations) or new_images > MAX_NEW_IMAGES:
                    break
                joining.append(self._waiting.popleft())
            except Exception as error:  # noqa: BLE001 - ends that answer
                self._running.end(self._waiting.popleft(), error)
        self._running.join()


def _unwrap(chunk: TokenChunk | BaseException) -> TokenChunk:
    """The chunk; raises the error if the engine's thread sent one instead."""
    if isinstance(chunk, BaseException):
        raise _engine_error(chunk) from chunk
    return chunk


def _engine_error(error: BaseException) -> EngineError:
    """A new EngineError for one reader. Messages of other exceptions may quote users, so only their
    type is included."""
    if isinstance(error, EngineError):
        return EngineError(*error.args)
    return EngineError(
        f"expected an answer from the language model, got {type(error).__name__} on this "
        "question; see the service's log, and ask again"
    )
