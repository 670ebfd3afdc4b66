"""Builds the engine that the settings choose, and the decoder and prompt builder that fit it."""

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
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from cloud_server.engine.vllm import VllmEngine, VllmSettings
from cloud_server.front import FrontModel, blank_request, load_front_model
from cloud_server.model import CloudModel, load_cloud_model
from cloud_server.operations.metrics import Metrics
from cloud_server.prompt import PromptBuilder, PromptLimits

Loaded = CloudModel | FrontModel
"""The whole model, or what the service needs if the engine loads the model itself."""


@dataclass(frozen=True)
class ServingBackend:
    """What the gRPC service calls to answer questions."""

    manifests: Sequence[SplitManifest]
    decode_many: DecodeMany
    prompts: PromptBuilder
    engine: LanguageEngine


def load(config: CloudConfig) -> Loaded:
    """Load what `config.engine` needs in this process. Blocks for seconds to minutes.

    Raises:
        ConfigError: the bundle or the checkpoint is unusable, or unsupported by this engine.
        ManifestMismatch: the bundle was made for another checkpoint.
    """
    return load_cloud_model(config) if config.engine == "transformers" else load_front_model(config)


def make_backend(loaded: Loaded, config: CloudConfig, metrics: Metrics) -> ServingBackend:
    """The backend over a loaded model; ConfigError if the settings do not fit the engine."""
    if isinstance(loaded, CloudModel):
        return _transformers_backend(loaded, config, metrics)
    return _index_backend(loaded, config, metrics)


def _transformers_backend(
    model: CloudModel, config: CloudConfig, metrics: Metrics
) -> ServingBackend:
    engine = TransformersEngine(
        model.llava,
        model.processor.tokenizer,
        EngineCapacity(
            config.parallel_answers, config.cache_tokens, config.prefix_cache_mib * 2**20
        ),
        metrics.engine_batch.observe,
        model.compute_lock,
    )
    metrics.gauge(
        "engine_queue", "Answers waiting for a slot in the running batch.", lambda: engine.waiting
    )
    # Cuts of one tower have the same image tokens, so the first manifest speaks for all.
    manifests = [cut.bundle.manifest for cut in model.cuts.values()]
    prompts = PromptBuilder(
        model.processor,
        manifests[0].tower.num_selected_tokens,
        _prompt_limits(config, model.llava.config.text_config.max_position_embeddings),
    )
    return ServingBackend(manifests, ImageDecoder(model).decode_many, prompts, engine)


def _index_backend(front: FrontModel, config: CloudConfig, metrics: Metrics) -> ServingBackend:
    manifest = front.bundle.manifest
    prompts = PromptBuilder(
        front.processor,
        manifest.tower.num_selected_tokens,
        _prompt_limits(config, front.context_tokens),
    )
    tokenizer, blank = front.processor.tokenizer, blank_request(front.layout, prompts)
    engine: VllmEngine | ReplicasEngine
    if config.engine == "vllm":
        if config.device != "auto":
            raise ConfigError(
                f"expected device 'auto' for engine 'vllm', which chooses the device itself, "
                f"got {config.device!r}; leave device out"
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
        metrics.gauge(
            "engine_replicas", "Engine replicas in rotation.", lambda: len(engine.replicas)
        )
    reader = IndexReader(front.bundle.codec, front.layout)
    return ServingBackend([manifest], reader.decode_many, prompts, engine)


def _prompt_limits(config: CloudConfig, context_tokens: int) -> PromptLimits:
    return PromptLimits(
        context_tokens, config.max_question_chars, config.max_turns, config.max_history_chars
    )
