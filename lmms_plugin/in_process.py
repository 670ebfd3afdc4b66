"""Answers by the cloud's own engine in this process, about pictures that a tower saw here."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from aligned_vq.answers import TokenChunk
from aligned_vq.errors import AlignedVQError, ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from cloud_server.config import CloudConfig
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from cloud_server.engine.transformers.slots import in_blocks
from cloud_server.fair_lock import compute_lock_for
from cloud_server.model import chosen_device, chosen_dtype, load_cloud_model
from cloud_server.prompt import PromptBuilder, PromptLimits
from edge_client.encoder import EdgeEncoder
from lmms_plugin.asked import ModelRequest, ModelResponse, about
from lmms_plugin.likelihood import LikelihoodReader
from lmms_plugin.towers import SplitTower, Tower, TowerOutput, WholeTower

PREFIX_CACHE_BYTES = 512 * 2**20
MAX_QUESTION_CHARS = 100_000
"""The context is what limits a question here; this only keeps a tokenizer from choking."""


@dataclass(frozen=True)
class InProcessConfig:
    """What answers in this process.

    Args:
        checkpoint: the LLaVA, a directory in Hugging Face format or a hub id.
        bundle: directory written by `aligned-vq export`; left out, the model is asked in one piece.
        point: operating point of the bundle, such as low or high; left out, its default.
        revision: hub revision of the checkpoint.
        device: auto, cpu, cuda or cuda:1 and so on.
        dtype: of the language model and of the tower but for the edge's part of it; auto is float32
            on a CPU, else bfloat16.
    """

    checkpoint: str
    bundle: Path | None = None
    point: str | None = None
    revision: str | None = None
    device: str = "auto"
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"

    def __post_init__(self) -> None:
        if self.point is not None and self.bundle is None:
            raise ConfigError(
                f"expected bundle=... beside point={self.point}, got none; give the bundle, or "
                "leave point out for the model in one piece"
            )


class InProcessResponder:
    """An `Answerer`; see there. Use it from one thread.

    Args:
        config: what to load.
        batch: answers generated at the same time.

    Raises:
        ConfigError: bundle, checkpoint or device cannot be used.
        InvalidInput: the bundle has no such operating point.
        ManifestMismatch: bundle and checkpoint do not belong together.
    """

    def __init__(self, config: InProcessConfig, batch: int) -> None:
        checkpoint = LlavaCheckpoint(config.checkpoint, config.revision)
        self._tower = tower = _tower(config, checkpoint)
        llava, processor = tower.llava, tower.processor
        context = llava.config.text_config.max_position_embeddings
        self._prompts = PromptBuilder(
            processor,
            checkpoint.tower.num_selected_tokens,
            PromptLimits(context, MAX_QUESTION_CHARS),
        )
        self._likelihood = LikelihoodReader(llava, processor, context)
        self._engine = TransformersEngine(
            llava,
            processor.tokenizer,
            EngineCapacity(batch, batch * in_blocks(context), PREFIX_CACHE_BYTES),
            compute_lock=compute_lock_for(llava.device),
        )
        self._numbers = itertools.count()
        self._runner = asyncio.Runner()

    def answer(self, asked: Sequence[ModelRequest]) -> list[ModelResponse]:
        """See `Answerer.answer`."""
        prompts = [self._prompt(own) for own in asked]
        seen = self._look(asked)
        return self._runner.run(self._answer(asked, prompts, seen))

    def log_likelihood(self, asked: ModelRequest, continuation: str) -> tuple[float, bool]:
        """See `Answerer.log_likelihood`."""
        prompt = self._prompt(asked)
        (seen,) = self._look([asked])
        return self._likelihood.read(prompt, seen and seen.embeds, continuation)

    def close(self) -> None:
        """See `Answerer.close`."""
        self._runner.run(self._engine.close())
        self._runner.close()

    def _prompt(self, asked: ModelRequest) -> list[int]:
        try:
            return self._prompts.build(asked.text, text_only=asked.picture is None)
        except AlignedVQError as error:
            error.add_note(about(asked))
            raise

    def _look(self, asked: Sequence[ModelRequest]) -> list[TowerOutput | None]:
        found = iter(self._tower.look([own.picture for own in asked if own.picture is not None]))
        return [None if own.picture is None else next(found) for own in asked]

    async def _answer(
        self,
        asked: Sequence[ModelRequest],
        prompts: Sequence[list[int]],
        seen: Sequence[TowerOutput | None],
    ) -> list[ModelResponse]:
        return await asyncio.gather(*map(self._told, asked, prompts, seen))

    async def _told(
        self, asked: ModelRequest, prompt: list[int], seen: TowerOutput | None
    ) -> ModelResponse:
        room = self._prompts.limits.context_tokens - len(prompt)
        sampling = replace(asked.sampling, max_tokens=min(asked.sampling.max_tokens, room))
        request = EngineRequest(
            f"lmms-{next(self._numbers)}",
            prompt,
            seen and seen.embeds,
            sampling,
            seen.key if seen else b"",
        )
        try:
            chunks: list[TokenChunk] = [own async for own in self._engine.generate(request)]
        except AlignedVQError as error:
            error.add_note(about(asked))
            raise
        usage = chunks[-1].usage
        assert usage is not None  # the last chunk's is there
        text = "".join(chunk.text for chunk in chunks)
        return ModelResponse(text, usage, seen.payload_bytes if seen else 0)


def _tower(config: InProcessConfig, checkpoint: LlavaCheckpoint) -> Tower:
    if config.bundle is None:
        device = chosen_device(config.device)
        return WholeTower(checkpoint, device, chosen_dtype(config.dtype, device))
    encoder = EdgeEncoder(config.bundle)
    encoder.check_quality(config.point)  # before minutes of loading
    cloud = CloudConfig(
        config.bundle,
        config.checkpoint,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
    )
    return SplitTower(load_cloud_model(cloud), encoder, config.point)
