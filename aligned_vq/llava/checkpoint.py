"""A LLaVA checkpoint on disk or on the hub, whose vision tensors are read lazily."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import Tensor

from aligned_vq.checkpoints.lazy import LazyCheckpoint, tensors_digest
from aligned_vq.errors import ConfigError
from aligned_vq.llava.tower_config import TowerConfig

CONVERTED_EXAMPLE = "llava-hf/llava-1.5-7b-hf"
# The vision tower's prefix in the releases of transformers so far, newest first.
_TOWER_PREFIXES = (
    "model.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.vision_model.",
    "vision_tower.",
)


class LlavaCheckpoint(LazyCheckpoint):
    """A `LlavaForConditionalGeneration` checkpoint: settings at once, vision tensors lazily.

    Args:
        source: a directory in Hugging Face format, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: of the hub repository; ignored for a directory.

    Raises:
        ConfigError: the source does not exist, is not LLaVA, or is in LLaVA's original format.
    """

    def __init__(self, source: str | Path, revision: str | None = None) -> None:
        super().__init__(source, revision, CONVERTED_EXAMPLE)

    def _check_config(self) -> None:
        _check_is_llava(self.config, self.source)
        try:
            self.tower = TowerConfig.from_llava(self.config)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.source}: a vision setting in config.json is missing or of the wrong type "
                f"({error!r}); expected those of {CONVERTED_EXAMPLE}"
            ) from error

    def vision_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """Some of the vision tower's tensors, by their name inside the tower, as stored."""
        return {name: self.tensor(self._tower_name(name)) for name in names}

    def vision_digest(self, names: Iterable[str]) -> str:
        """SHA-256 over some vision tensors' names, shapes and stored bytes."""
        return tensors_digest(self.vision_tensors(names))

    def _tower_name(self, name: str) -> str:
        stored = self.stored_name(name, _TOWER_PREFIXES)
        if stored is None:
            raise ConfigError(
                f"{self.source}: expected a CLIP vision tower with a tensor '{name}', found none; "
                "this tower is not one that can be split"
            )
        return stored


def _check_is_llava(config: Any, source: str) -> None:
    """Raise ConfigError unless the model is transformers' LLaVA with a CLIP vision tower."""
    config = config if isinstance(config, dict) else {}  # any JSON value
    kind = config.get("model_type")
    if kind in ("llava_llama", "llava_mistral", "llava_mpt") or "mm_vision_tower" in config:
        raise ConfigError(
            f"{source} is in LLaVA's original format (model_type {kind!r}); expected transformers' "
            f"conversion of it, such as {CONVERTED_EXAMPLE}"
        )
    if kind != "llava":
        raise ConfigError(
            f"{source} holds a model of type {kind!r}; expected 'llava', as in {CONVERTED_EXAMPLE}"
        )
    vision = config.get("vision_config")
    if not isinstance(vision, dict):
        raise ConfigError(
            f"{source}: expected a vision_config in config.json, got {vision!r}; expected that of "
            f"{CONVERTED_EXAMPLE}"
        )
    tower = vision.get("model_type", "clip_vision_model")  # transformers' default
    if tower != "clip_vision_model":
        raise ConfigError(
            f"{source} has a vision tower of type {tower!r}; expected 'clip_vision_model'"
        )
