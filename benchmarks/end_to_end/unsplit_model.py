"""The unsplit model inside the edge process: nothing is sent."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.images.preprocess import preprocess
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix
from aligned_vq.stopwatch import Stopwatch
from benchmarks.end_to_end.edge import EdgeTask, Sample
from cloud_server.config import CloudConfig
from cloud_server.engine.base import EngineRequest
from cloud_server.model import load_cloud_model
from cloud_server.operations.metrics import Metrics
from cloud_server.serving_backends import make_backend


class UnsplitModel:
    """Tower, projector and language model, run on the CPU by the cloud's code."""

    def __init__(self, task: EdgeTask) -> None:
        # Without a cache of prefixes: every question computes its image.
        config = CloudConfig(Path(task.bundle), task.checkpoint, device="cpu", prefix_cache_mib=0)
        self._model = load_cloud_model(config)
        (self._cut,) = self._model.cuts.values()
        split = self._cut.bundle.manifest.split
        self._prefix = load_prefix(LlavaCheckpoint(task.checkpoint), split, self._model.dtype)
        self._prefix.to(self._model.device)
        backend = make_backend(self._model, config, Metrics())
        self._engine, self._prompt = backend.engine, backend.prompts.build(task.question)
        self._sampling = Sampling(task.max_tokens)

    def ask(self, image: Image.Image) -> Sample:
        """Answer the task's question about an image; bytes are 0."""
        started = time.perf_counter()
        embeds, edge_ms = self._embeds(image)
        request = EngineRequest("edge", self._prompt, embeds, self._sampling)
        first, last, last_chunk = asyncio.run(self._generate(request))
        engine_ns = last_chunk.timings.stages_ns if last_chunk.timings else {}
        return {
            "edge_ms": edge_ms,
            "cloud_ms": {stage: ns / 1e6 for stage, ns in engine_ns.items()},
            "first_token_ms": 1e3 * (first - started),
            "total_ms": 1e3 * (last - started),
            "body_bytes": 0,
            "sent_bytes": 0,
            "tokens": last_chunk.usage.completion_tokens if last_chunk.usage else 0,
        }

    @torch.inference_mode()
    def _embeds(self, image: Image.Image) -> tuple[Tensor, dict[str, float]]:
        """The image embeddings `[N, H]` for the language model, and milliseconds by stage."""
        watch = Stopwatch()
        pixels = torch.from_numpy(preprocess(image, self._cut.bundle.manifest.processor))
        watch.lap("preprocess")
        # Prefix and suffix without a codec between them are the unsplit tower.
        features, residual = self._prefix(pixels[None].to(self._model.device, self._model.dtype))
        watch.lap("prefix")
        selected = self._cut.suffix(features, residual)  # [1, N', D]
        watch.lap("suffix")
        embeds = self._model.llava.model.multi_modal_projector(selected)[0]
        watch.lap("projector")
        return embeds, {stage: ns / 1e6 for stage, ns in watch.timings().stages_ns.items()}

    async def _generate(self, request: EngineRequest) -> tuple[float, float, TokenChunk]:
        """Times of the first and of the last chunk by `time.perf_counter`, and the last chunk."""
        first = 0.0
        async for chunk in self._engine.generate(request):
            first = first or time.perf_counter()
            last = chunk
        return first, time.perf_counter(), last
