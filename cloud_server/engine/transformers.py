"""The default engine: transformers' language model, one thread per answer in progress."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from aligned_vq.errors import EngineError
from aligned_vq.types import FinishReason, Sampling, Timings, TokenChunk, Usage
from cloud_server.engine.text import TextStream

_log = logging.getLogger(__name__)


class TransformersEngine:
    """Greedy or sampled decoding with a key-value cache, token for token as `generate` does it.

    Args:
        llava: transformers' `LlavaForConditionalGeneration`; its vision tower is not used.
        tokenizer: the checkpoint's.
        parallel_answers: answers generated at once; more wait for a free thread.
    """

    def __init__(self, llava: Any, tokenizer: Any, parallel_answers: int) -> None:
        self._llava = llava
        self._tokenizer = tokenizer
        self._image_token_id: int = llava.config.image_token_id
        ends = llava.generation_config.eos_token_id
        self._ends = set(ends if isinstance(ends, list) else [ends])
        self._pool = ThreadPoolExecutor(parallel_answers, thread_name_prefix="answer")
        self._stops: dict[str, threading.Event] = {}

    async def generate(
        self, request_id: str, prompt_ids: Sequence[int], image_embeds: Tensor, sampling: Sampling
    ) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        loop = asyncio.get_running_loop()
        chunks: asyncio.Queue[TokenChunk | BaseException] = asyncio.Queue()
        stop = self._stops[request_id] = threading.Event()

        def emit(chunk: TokenChunk | BaseException) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(chunks.put_nowait, chunk)

        work = self._pool.submit(
            self._answer, list(prompt_ids), image_embeds, sampling, stop.is_set, emit
        )
        try:
            while True:
                chunk = await chunks.get()
                if isinstance(chunk, BaseException):
                    raise EngineError(
                        f"the language model failed on this question ({type(chunk).__name__}); "
                        "the service's log says why"
                    ) from chunk
                yield chunk
                if chunk.finish_reason is not None:
                    return
        finally:
            stop.set()
            work.cancel()
            self._stops.pop(request_id, None)

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if stop := self._stops.get(request_id):
            stop.set()

    async def warm_up(self) -> None:
        """See `LanguageEngine.warm_up`."""
        width = self._llava.config.text_config.hidden_size
        embeds = torch.zeros(1, width, device=self._llava.device, dtype=self._llava.dtype)
        prompt = [self._image_token_id, *self._ends]
        async for _ in self.generate("warm-up", prompt, embeds, Sampling(max_tokens=2)):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        for stop in self._stops.values():
            stop.set()
        await asyncio.to_thread(self._pool.shutdown, wait=True, cancel_futures=True)

    def _answer(
        self,
        prompt_ids: list[int],
        image_embeds: Tensor,
        sampling: Sampling,
        stopped: Callable[[], bool],
        emit: Callable[[TokenChunk | BaseException], None],
    ) -> None:
        try:
            self._decode(prompt_ids, image_embeds, sampling, stopped, emit)
        except Exception as error:  # noqa: BLE001 - whatever it is, it belongs to this answer only
            _log.exception("an answer failed")
            emit(error)

    @torch.inference_mode()
    def _decode(
        self,
        prompt_ids: list[int],
        image_embeds: Tensor,
        sampling: Sampling,
        stopped: Callable[[], bool],
        emit: Callable[[TokenChunk | BaseException], None],
    ) -> None:
        started = time.perf_counter_ns()
        pick = _Picker(sampling, self._llava.device)
        embeds = self._merged(prompt_ids, image_embeds)
        text = TextStream(self._tokenizer)
        cache: Any = None
        prefill_ns = 0
        for count in range(1, sampling.max_tokens + 1):
            out = self._llava.model.language_model(
                inputs_embeds=embeds, past_key_values=cache, use_cache=True
            )
            cache = out.past_key_values
            token = pick(self._llava.lm_head(out.last_hidden_state[0, -1]))
            if count == 1:
                prefill_ns = time.perf_counter_ns() - started
            finish: FinishReason | None = None
            if token in self._ends:
                finish = "stop"
            elif stopped():
                finish = "cancelled"
            elif count == sampling.max_tokens:
                finish = "length"
            piece = text.push(token, last=finish is not None)
            if finish is None:
                emit(TokenChunk(piece, (token,)))
                embeds = self._embed(torch.tensor([[token]], device=self._llava.device))
                continue
            decode_ns = time.perf_counter_ns() - started - prefill_ns
            usage = Usage(len(prompt_ids), count)
            timings = Timings({"prefill": prefill_ns, "decode": decode_ns})
            emit(TokenChunk(piece, (token,), finish, usage, timings))
            return

    def _merged(self, prompt_ids: list[int], image_embeds: Tensor) -> Tensor:
        """Embeddings of the prompt with the image's in place of its placeholders, `[1, L, H]`."""
        ids = torch.tensor([prompt_ids], device=self._llava.device)
        embeds = self._embed(ids).clone()
        places = ids == self._image_token_id
        if int(places.sum()) != len(image_embeds):
            raise ValueError(f"{int(places.sum())} placeholders for {len(image_embeds)} embeddings")
        embeds[places] = image_embeds.to(embeds)
        return embeds

    def _embed(self, ids: Tensor) -> Tensor:
        embedded: Tensor = self._llava.get_input_embeddings()(ids)
        return embedded


class _Picker:
    """Chooses the next token from logits `[V]`."""

    def __init__(self, sampling: Sampling, device: torch.device) -> None:
        self._sampling = sampling
        self._random = torch.Generator(device)
        if sampling.seed is None:
            self._random.seed()
        else:
            self._random.manual_seed(sampling.seed % 2**63)

    def __call__(self, logits: Tensor) -> int:
        if self._sampling.temperature == 0:
            return int(logits.argmax())
        share = torch.softmax(logits.float() / self._sampling.temperature, dim=-1)
        ranked, order = share.sort(descending=True)
        ranked[ranked.cumsum(0) - ranked >= self._sampling.top_p] = 0
        return int(order[torch.multinomial(ranked, 1, generator=self._random)])
