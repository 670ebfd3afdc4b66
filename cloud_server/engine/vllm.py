"""vLLM inside this process: one machine, one or several GPUs.

The engine takes codebook indices; vLLM's workers rebuild the image, schedule and cache. It needs a
separate environment with vLLM (`make vllm` makes one for CPUs).
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aligned_vq.answers import FinishReason, TokenChunk
from aligned_vq.errors import ConfigError, EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.sampling import vllm_sampling
from cloud_server.engine.streaming import ChunkBuilder
from cloud_server.vllm_plugin import overrides

_log = logging.getLogger(__name__)

_REASONS: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "cancelled",
}


@dataclass(frozen=True)
class VllmSettings:
    """vLLM's settings; `more` holds further engine arguments by their Python names."""

    model: str
    revision: str | None
    bundle: Path
    dtype: str
    parallel_answers: int
    tensor_parallel: int = 1
    data_parallel: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)


class VllmEngine:
    """A `LanguageEngine` on vLLM's `AsyncLLM`; `warm_up` starts it.

    Args:
        settings: vLLM's settings.
        tokenizer: the checkpoint's.
        blank: a request without image content, for the warm-up.
    """

    def __init__(self, settings: VllmSettings, tokenizer: Any, blank: EngineRequest) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._blank = blank
        self._llm: Any = None
        self._running: set[str] = set()
        self._closing = False

    @property
    def healthy(self) -> bool:
        """See `LanguageEngine.healthy`."""
        return self._llm is not None and not self._closing and not self._llm.errored

    @property
    def lost(self) -> bool:
        """See `LanguageEngine.lost`."""
        return self._closing or (self._llm is not None and bool(self._llm.errored))

    async def generate(self, request: EngineRequest) -> AsyncIterator[TokenChunk]:
        """See `LanguageEngine.generate`."""
        llm = self._llm
        if not self.healthy:
            raise EngineError("expected vLLM to run, got a stopped engine; ask another replica")
        sampling = _sampling(request)
        builder = ChunkBuilder(request, self._tokenizer)
        self._running.add(request.request_id)
        try:
            # Rendering checks the image in this process; in a worker an exception would end vLLM.
            (prompt,) = await llm.renderer.render_cmpl_async([_prompt(request)])
            outputs = llm.generate(prompt, sampling, request.request_id)
            async with aclosing(outputs):  # closing early aborts the request in the engine
                async for output in outputs:
                    completion = output.outputs[0]
                    chunk = builder.chunk(
                        completion.token_ids, _REASONS.get(completion.finish_reason)
                    )
                    if output.finished and chunk.finish_reason is None:
                        raise EngineError(
                            "expected vLLM to finish the answer, got finish reason "
                            f"{completion.finish_reason!r}; ask again"
                        )
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        except EngineError:
            raise
        except Exception as error:
            _log.error("vLLM failed on a question", exc_info=error)
            raise EngineError(
                f"expected an answer from vLLM, got {type(error).__name__}: {error}; see the "
                "service's log"
            ) from error
        finally:
            self._running.discard(request.request_id)

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if self.healthy:
            await self._llm.abort(request_id)

    async def warm_up(self) -> None:
        """Start vLLM and its workers, then answer the blank request.

        Raises:
            ConfigError: vLLM is not installed, or does not start with these settings.
        """
        self._llm = await asyncio.to_thread(_start, self._settings)
        async for _ in self.generate(self._blank):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        for request_id in list(self._running):
            await self.abort(request_id)
        self._closing = True
        llm, self._llm = self._llm, None
        if llm is None:
            return
        # Otherwise the handler logs the engine's end as a failure.
        if llm.output_handler is not None:
            llm.output_handler.cancel()
        await asyncio.to_thread(llm.shutdown)


def _start(settings: VllmSettings) -> Any:
    """vLLM's engine, once its workers are ready."""
    # vLLM reads these when it is imported: no usage statistics leave the machine, and its log goes
    # to stderr like the service's.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(
            f"expected vLLM for engine 'vllm', got none ({error}); run the service in an "
            "environment with vLLM (`make vllm` makes one), or choose engine 'transformers'"
        ) from error
    dtype = settings.dtype
    if dtype == "auto":
        # The rule of `chosen_dtype`; vLLM's auto follows the checkpoint.
        dtype = "float32" if current_platform.is_cpu() else "bfloat16"
    try:
        arguments = AsyncEngineArgs(
            model=settings.model,
            revision=settings.revision,
            dtype=dtype,
            hf_overrides=overrides(settings.bundle),
            max_num_seqs=settings.parallel_answers,
            tensor_parallel_size=settings.tensor_parallel,
            data_parallel_size=settings.data_parallel,
            **settings.more,
        )
        return AsyncLLM.from_engine_args(arguments)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ConfigError(
            f"expected vLLM to start with these settings, got: {error}; see its log"
        ) from error


def _prompt(request: EngineRequest) -> dict[str, Any]:
    """The prompt with its image. vLLM's caches are salted with the image key, which differs between
    clients, so no client can observe what another one has cached."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
    cache_key = request.image_key.hex()
    if cache_key:
        prompt["cache_salt"] = cache_key
    if request.image is not None:
        prompt["multi_modal_data"] = {"image": request.image}
        if cache_key:
            prompt["multi_modal_uuids"] = {"image": [cache_key]}
    return prompt


def _sampling(request: EngineRequest) -> Any:
    # Imported late, as most environments have no vLLM.
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    # DELTA: outputs hold new tokens only, as `ChunkBuilder` expects.
    return SamplingParams(**vllm_sampling(request.sampling), output_kind=RequestOutputKind.DELTA)
