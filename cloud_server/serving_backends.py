"""Which engine answers, and what reads images for it: the one place that knows them all."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from cloud_server.config import CloudConfig
from cloud_server.decode.batcher import DecodeMany
from cloud_server.decode.image_decoder import ImageDecoder
from cloud_server.decode.index_arrays import IndexReader
from cloud_server.engine.base import LanguageEngine
from cloud_server.engine.replicas import ReplicasEngine
from cloud_server.engine.transformers.engine import TransformersEngine
from cloud_server.engine.vllm import VllmEngine, VllmSettings
from cloud_server.front import FrontModel, blank_request, load_front_model
from cloud_server.model import CloudModel, load_cloud_model
from cloud_server.operations.metrics import Metrics
from cloud_server.prompt import PromptBuilder, PromptLimits

Loaded = CloudModel | FrontModel
"""The model itself, or what a service needs whose engine holds it."""


@dataclass(frozen=True)
class ServingBackend:
    """Everything behind the wire."""

    manifests: Sequence[SplitManifest]
    decode_many: DecodeMany
    prompts: PromptBuilder
    engine: LanguageEngine


def load(config: CloudConfig) -> Loaded:
    """What `config.engine` needs in this process; blocks.

    Raises:
        ConfigError: bundle or checkpoint cannot be used, or not with this engine.
        ManifestMismatch: they do not belong together.
    """
    return load_cloud_model(config) if config.engine == "transformers" else load_front_model(config)


def make_backend(loaded: Loaded, config: CloudConfig, metrics: Metrics) -> ServingBackend:
    """The engine over what was loaded; ConfigError where settings do not fit it."""
    if isinstance(loaded, CloudModel):
        return _transformers(loaded, config, metrics)
    return _indices(loaded, config, metrics)


def _transformers(model: CloudModel, config: CloudConfig, metrics: Metrics) -> ServingBackend:
    engine = TransformersEngine(
        model.llava,
        model.processor.tokenizer,
        config.parallel_answers,
        config.cache_tokens,
        config.prefix_cache_mib * 2**20,
        metrics.engine_batch.observe,
        model.turns,
    )
    metrics.gauge("engine_queue", "Answers that wait for a place.", lambda: engine.waiting)
    manifests = [cut.bundle.manifest for cut in model.cuts.values()]
    prompts = PromptBuilder(
        model.processor,
        manifests[0].tower.num_selected_tokens,
        _limits(config, model.llava.config.text_config.max_position_embeddings),
    )
    return ServingBackend(manifests, ImageDecoder(model).decode_many, prompts, engine)


def _indices(front: FrontModel, config: CloudConfig, metrics: Metrics) -> ServingBackend:
    manifest = front.bundle.manifest
    prompts = PromptBuilder(
        front.processor,
        manifest.tower.num_selected_tokens,
        _limits(config, front.context_tokens),
    )
    tokenizer, blank = front.processor.tokenizer, blank_request(front.layout, prompts)
    engine: VllmEngine | ReplicasEngine
    if config.engine == "vllm":
        if config.device != "auto":
            raise ConfigError(
                f"expected device 'auto' for engine 'vllm', which chooses it, got {config.device!r}"
            )
        settings = VllmSettings(
            config.model,
            config.revision,
            config.bundle,
            config.dtype,
            config.parallel_answers,
            config.tensor_parallel,
            config.data_parallel,
            config.vllm,
        )
        engine = VllmEngine(settings, tokenizer, blank)
    else:
        urls = [url for url in map(str.strip, config.engine_urls.split(",")) if url]
        engine = ReplicasEngine(urls, tokenizer, front.layout, blank, metrics.engine_retries.inc)
        metrics.gauge("engine_replicas", "Engines that may be asked.", lambda: len(engine.replicas))
    reader = IndexReader(front.bundle.codec, front.layout)
    return ServingBackend([manifest], reader.decode_many, prompts, engine)


def _limits(config: CloudConfig, context_tokens: int) -> PromptLimits:
    return PromptLimits(
        context_tokens, config.max_question_chars, config.max_turns, config.max_history_chars
    )
