"""The front tier's part of the model: bundle, tokenizer and settings, but no weights of LLaVA."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Any

import torch

from aligned_vq.answers import Sampling
from aligned_vq.codec.bundle import CloudBundle, open_cloud_bundle
from aligned_vq.errors import ConfigError, ManifestMismatch
from aligned_vq.llava.tower_config import TowerConfig
from cloud_server.config import CloudConfig
from cloud_server.decode.index_arrays import UNCOVERED, IndexLayout
from cloud_server.engine.base import EngineRequest
from cloud_server.prompt import PromptBuilder

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FrontModel:
    """A bundle, and the checkpoint's processor and context length."""

    bundle: CloudBundle
    layout: IndexLayout
    processor: Any
    """transformers' `LlavaProcessor`."""
    context_tokens: int


def load_front_model(config: CloudConfig) -> FrontModel:
    """Open the bundle, and load the checkpoint's settings and processor without its weights.

    Only the engine, which loads the weights, can compare them with the bundle.

    Raises:
        ConfigError: one of them is unusable, or unsupported by this engine.
        ManifestMismatch: the bundle was made for another vision tower.
    """
    from transformers import AutoConfig, AutoProcessor

    # A replica serves the one bundle that its model was created with.
    if config.more_bundles:
        raise ConfigError(
            f"expected one bundle for engine {config.engine!r}, got {len(config.bundles)}; serve "
            "the others with services of their own, or with engine 'transformers'"
        )
    bundle = open_cloud_bundle(config.bundle)
    layout = IndexLayout.of(bundle.manifest)
    try:
        settings = AutoConfig.from_pretrained(config.model, revision=config.revision)
        processor = AutoProcessor.from_pretrained(
            config.model, revision=config.revision, use_fast=False
        )
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{config.model}: expected a checkpoint that transformers can load, got: {error}; "
            "check model and revision"
        ) from error
    tower = TowerConfig.from_llava(settings.to_dict())
    if tower != bundle.manifest.tower:
        raise ManifestMismatch(
            f"{config.model}: expected the vision tower of the bundle's manifest "
            f"({bundle.manifest.tower}), got {tower}; serve the checkpoint the bundle was made from"
        )
    _log.info("front tier for %s, cut at %s", config.model, bundle.manifest.split)
    return FrontModel(bundle, layout, processor, settings.text_config.max_position_embeddings)


def blank_request(layout: IndexLayout, prompts: PromptBuilder) -> EngineRequest:
    """A question about an image without any covered token, to warm up an engine."""
    image = torch.full(layout.shape, UNCOVERED, dtype=torch.int16)
    return EngineRequest("warm-up", prompts.build("?"), image, Sampling(max_tokens=2))
