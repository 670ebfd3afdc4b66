"""Answers by the cloud's transformers engine, run in this process."""

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
from lmms_plugin.likelihood import LikelihoodReader
from lmms_plugin.responder import ModelRequest, ModelResponse, error_note
from lmms_plugin.towers import SplitTower, Tower, TowerOutput, UnsplitTower

PREFIX_CACHE_BYTES = 512 * 2**20
MAX_QUESTION_CHARS = 100_000
"""Bounds the tokenizer's work; the context length is what limits a question."""


@dataclass(frozen=True)
class InProcessConfig:
    """The model that answers in this process.

    Args:
        checkpoint: the LLaVA, a directory in Hugging Face format or a hub id.
        bundle: directory written by `aligned-vq export`; default: none, the unsplit model.
        point: operating point of the bundle, such as low or high; default: the bundle's.
        revision: hub revision of the checkpoint.
        device: auto, cpu, cuda, or a numbered device such as cuda:1.
        dtype: precision of the language model and the cloud's part of the tower; auto: float32 on
            a CPU, else bfloat16.
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
                f"expected bundle=... with point={self.point}, got none; give the bundle, or leave "
                "point out for the unsplit model"
            )


class InProcessResponder:
    """A `Responder` with its own model, for use from one thread.

    Args:
        config: the model.
        batch_size: answers generated concurrently.

    Raises:
        ConfigError: bundle, checkpoint or device cannot be used.
        InvalidInput: the bundle has no such operating point.
        ManifestMismatch: bundle and checkpoint do not match.
    """

    def __init__(self, config: InProcessConfig, batch_size: int) -> None:
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
            # A full context for every row, so that no request waits for memory.
            EngineCapacity(batch_size, batch_size * in_blocks(context), PREFIX_CACHE_BYTES),
            compute_lock=compute_lock_for(llava.device),
        )
        self._request_numbers = itertools.count()
        self._runner = asyncio.Runner()

    def answer(self, requests: Sequence[ModelRequest]) -> list[ModelResponse]:
        """See `Responder.answer`."""
        # Prompts first: an invalid one fails before the vision tower runs.
        prompts = [self._prompt(request) for request in requests]
        images = self._embed(requests)
        # One event loop for all calls, as the engine outlives each of them.
        return self._runner.run(self._answer_all(requests, prompts, images))

    def log_likelihood(self, request: ModelRequest, continuation: str) -> tuple[float, bool]:
        """See `Responder.log_likelihood`."""
        prompt = self._prompt(request)
        (image,) = self._embed([request])
        return self._likelihood.read(prompt, image and image.embeds, continuation)

    def close(self) -> None:
        """See `Responder.close`."""
        self._runner.run(self._engine.close())
        self._runner.close()

    def _prompt(self, request: ModelRequest) -> list[int]:
        try:
            return self._prompts.build(request.text, text_only=request.image is None)
        except AlignedVQError as error:
            error.add_note(error_note(request))
            raise

    def _embed(self, requests: Sequence[ModelRequest]) -> list[TowerOutput | None]:
        """Embeddings by request; None for a text-only one."""
        images = [request.image for request in requests if request.image is not None]
        # Text-only requests have no output, so the two lists differ in length.
        outputs = iter(self._tower.embed(images))
        return [None if request.image is None else next(outputs) for request in requests]

    async def _answer_all(
        self,
        requests: Sequence[ModelRequest],
        prompts: Sequence[list[int]],
        images: Sequence[TowerOutput | None],
    ) -> list[ModelResponse]:
        return await asyncio.gather(*map(self._answer_one, requests, prompts, images))

    async def _answer_one(
        self, request: ModelRequest, prompt: list[int], image: TowerOutput | None
    ) -> ModelResponse:
        max_tokens = self._prompts.limits.context_tokens - len(prompt)
        # Prompt and answer together must fit into the context.
        sampling = request.sampling
        engine_request = EngineRequest(
            f"lmms-{next(self._request_numbers)}",
            prompt,
            image and image.embeds,
            replace(sampling, max_tokens=min(sampling.max_tokens, max_tokens)),
            image.key if image else b"",
        )
        try:
            chunks: list[TokenChunk] = [
                chunk async for chunk in self._engine.generate(engine_request)
            ]
        except AlignedVQError as error:
            error.add_note(error_note(request))
            raise
        usage = chunks[-1].usage
        assert usage is not None  # the last chunk always has it
        text = "".join(chunk.text for chunk in chunks)
        return ModelResponse(text, usage, image.payload_bytes if image else 0)


def _tower(config: InProcessConfig, checkpoint: LlavaCheckpoint) -> Tower:
    if config.bundle is None:
        device = chosen_device(config.device)
        return UnsplitTower(checkpoint, device, chosen_dtype(config.dtype, device))
    encoder = EdgeEncoder(config.bundle)
    encoder.check_quality(config.point)  # before loading the model, which may take minutes
    cloud = CloudConfig(
        config.bundle,
        config.checkpoint,
        revision=config.revision,
        device=config.device,
        dtype=config.dtype,
    )
    return SplitTower(load_cloud_model(cloud), encoder, config.point)
