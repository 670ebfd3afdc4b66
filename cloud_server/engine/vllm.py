"""vLLM inside this process: one machine, one or several GPUs.

The engine takes codebook indices; vLLM's workers rebuild the image, schedule and cache it. Needs an
environment of its own with vLLM in it (`make vllm` makes one for CPUs).
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
from cloud_server.engine.streaming import TokenPieces
from cloud_server.vllm_plugin import overrides

_log = logging.getLogger(__name__)

_REASONS: dict[str | None, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "abort": "cancelled",
}


@dataclass(frozen=True)
class VllmSettings:
    """How vLLM runs; `more` holds further arguments of its engine by their Python names."""

    model: str
    revision: str | None
    bundle: Path
    dtype: str
    parallel_answers: int
    tensor_parallel: int = 1
    data_parallel: int = 1
    more: Mapping[str, Any] = field(default_factory=dict)


class VllmEngine:
    """A `LanguageEngine` over vLLM's `AsyncLLM`; `warm_up` starts it.

    Args:
        settings: how.
        tokenizer: the checkpoint's.
        blank: a question about nothing, for the warm-up.
    """

    def __init__(self, settings: VllmSettings, tokenizer: Any, blank: EngineRequest) -> None:
        self._settings = settings
        self._tokenizer = tokenizer
        self._blank = blank
        self._llm: Any = None
        self._asked: set[str] = set()
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
            raise EngineError("vLLM has stopped; ask another replica")
        sampling = _sampling(request)
        answer = TokenPieces(request, self._tokenizer)
        self._asked.add(request.request_id)
        try:
            # Checks the image, in this process.
            (prompt,) = await llm.renderer.render_cmpl_async([_prompt(request)])
            outputs = llm.generate(prompt, sampling, request.request_id)
            async with aclosing(outputs):  # closed early, it takes its request off the engine
                async for output in outputs:
                    own = output.outputs[0]
                    chunk = answer.take(own.token_ids, _REASONS.get(own.finish_reason))
                    if output.finished and chunk.finish_reason is None:
                        raise EngineError(f"vLLM gave up on this question ({own.finish_reason})")
                    yield chunk
                    if chunk.finish_reason is not None:
                        return
        except EngineError:
            raise
        except Exception as error:
            _log.error("vLLM failed on a question", exc_info=error)
            raise EngineError(
                f"vLLM failed on this question ({type(error).__name__}: {error}); the service's "
                "log says why"
            ) from error
        finally:
            self._asked.discard(request.request_id)

    async def abort(self, request_id: str) -> None:
        """See `LanguageEngine.abort`."""
        if self.healthy:
            await self._llm.abort(request_id)

    async def warm_up(self) -> None:
        """Start vLLM and its workers, then see `LanguageEngine.warm_up`.

        Raises:
            ConfigError: vLLM is not installed, or did not start with these settings.
        """
        self._llm = await asyncio.to_thread(_start, self._settings)
        async for _ in self.generate(self._blank):
            pass

    async def close(self) -> None:
        """See `LanguageEngine.close`."""
        for request_id in list(self._asked):
            await self.abort(request_id)
        self._closing = True
        llm, self._llm = self._llm, None
        if llm is None:
            return
        # Else it takes the end of the engine for its failure, and says so in the log.
        if llm.output_handler is not None:
            llm.output_handler.cancel()
        await asyncio.to_thread(llm.shutdown)


def _start(settings: VllmSettings) -> Any:
    """vLLM's engine, once its workers are ready."""
    # Set before vLLM is imported: nothing about what is served here leaves the machine, and its log
    # goes where ours does.
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_STREAM", "ext://sys.stderr")
    try:
        from vllm.engine.arg_utils import AsyncEngineArgs
        from vllm.platforms import current_platform
        from vllm.v1.engine.async_llm import AsyncLLM
    except ImportError as error:
        raise ConfigError(
            f"expected vLLM for engine 'vllm', got none ({error}); run the service in an "
            "environment that has it (`make vllm` makes one), or choose engine 'transformers'"
        ) from error
    dtype = settings.dtype
    if dtype == "auto":
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
            f"expected vLLM to start with these settings, got: {error}; its log says why"
        ) from error


def _prompt(request: EngineRequest) -> dict[str, Any]:
    """Token ids and indices. Whatever vLLM keeps of them is found again only under the same key,
    and the key is a tenant's own."""
    prompt: dict[str, Any] = {"prompt_token_ids": list(request.prompt_ids)}
    name = request.image_key.hex()
    if name:
        prompt["cache_salt"] = name
    if request.image is not None:
        prompt["multi_modal_data"] = {"image": request.image}
        if name:
            prompt["multi_modal_uuids"] = {"image": [name]}
    return prompt


def _sampling(request: EngineRequest) -> Any:
    from vllm import SamplingParams
    from vllm.sampling_params import RequestOutputKind

    return SamplingParams(**vllm_sampling(request.sampling), output_kind=RequestOutputKind.DELTA)
