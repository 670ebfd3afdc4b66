"""Lazy access to a LLaVA checkpoint on disk or on the Hugging Face hub.

Only the headers of safetensors files are read at first. A tensor's bytes are read on access, and
only the files that contain accessed tensors are downloaded.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aligned_vq.errors import ConfigError
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.llava.checkpoint_digest import FILES, checkpoint_digest
from aligned_vq.llava.tower_config import TowerConfig

CONVERTED_EXAMPLE = "llava-hf/llava-1.5-7b-hf"
_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"
# Prefixes of the vision tower's tensors in the releases of transformers, newest first.
_TOWER_PREFIXES = (
    "model.vision_tower.vision_model.",
    "model.vision_tower.",
    "vision_tower.vision_model.",
    "vision_tower.",
)


class LlavaCheckpoint:
    """A `LlavaForConditionalGeneration` checkpoint.

    Args:
        source: a directory in Hugging Face format, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: of the hub repository; ignored for a directory.

    Raises:
        ConfigError: the source does not exist, is not LLaVA, or is in LLaVA's original format.
    """

    def __init__(self, source: str | Path, revision: str | None = None) -> None:
        self.source = str(source)
        self.revision = revision
        self._directory = Path(source) if Path(source).is_dir() else None
        self.config = self._read_json("config.json")
        _check_is_llava(self.config, self.source)
        try:
            self.tower = TowerConfig.from_llava(self.config)
        except (KeyError, TypeError) as error:
            raise ConfigError(
                f"{self.source}: a vision setting in config.json is missing or of the wrong type "
                f"({error!r}); expected those of {CONVERTED_EXAMPLE}"
            ) from error
        self._files = self._tensor_files()
        self.opened: set[str] = set()
        """Stored names of all tensors read so far."""

    @property
    def model_id(self) -> str:
        """The hub id or the name of the directory, for the manifest."""
        return self.source if self._directory is None else self._directory.resolve().name

    def processor(self) -> ProcessorSettings:
        """The checkpoint's image-processor settings."""
        for name in ("processor_config.json", "preprocessor_config.json"):
            settings = self._read_json(name, optional=True)
            if settings and ("image_processor" in settings or "image_mean" in settings):
                return ProcessorSettings.from_dict(settings)
        raise ConfigError(
            f"{self.source}: expected preprocessor_config.json or processor_config.json with image "
            "settings, found neither; save the processor in the model's directory"
        )

    def vision_tensors(self, names: Iterable[str]) -> dict[str, Tensor]:
        """The vision tower's tensors of these names (without the tower's prefix), as stored."""
        return {name: self._tensor(self._stored_name(name)) for name in names}

    def vision_digest(self, names: Iterable[str]) -> str:
        """SHA-256 of the names, shapes, dtypes and stored bytes of vision tensors, in hex."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.vision_tensors(names).items()):
            state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
            state.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return state.hexdigest()

    def digest(self) -> str:
        """SHA-256 of all files of the checkpoint, which are downloaded and read, in hex."""
        return checkpoint_digest(self.directory())

    def directory(self) -> Path:
        """A local directory with the whole checkpoint, downloaded from the hub if necessary."""
        if self._directory is None:
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError

            try:
                downloaded = snapshot_download(
                    self.source, revision=self.revision, allow_patterns=list(FILES)
                )
            except (OSError, HfHubHTTPError) as error:
                raise self._fetch_error(error) from error
            self._directory = Path(downloaded)
        return self._directory

    def _tensor(self, stored: str) -> Tensor:
        self.opened.add(stored)
        path = self._path(self._files[stored])
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: cannot read {stored} ({error}); fetch it again") from error
        return tensor

    def _stored_name(self, name: str) -> str:
        for prefix in _TOWER_PREFIXES:
            if prefix + name in self._files:
                return prefix + name
        raise ConfigError(
            f"{self.source}: expected a CLIP vision tower with a tensor '{name}', found none; "
            "this tower is not one that can be split"
        )

    def _tensor_files(self) -> dict[str, str]:
        index = self._read_json(_INDEX, optional=True)
        if index is not None:
            files = index.get("weight_map") if isinstance(index, dict) else None
            if not isinstance(files, dict) or not all(isinstance(f, str) for f in files.values()):
                raise ConfigError(
                    f"{self.source}: expected a weight_map of tensor and file names in {_INDEX}, "
                    "got none; fetch it again"
                )
            return files
        path = self._path(_SINGLE, optional=True)
        if path is None:
            raise ConfigError(
                f"{self.source}: expected {_SINGLE} or {_INDEX}, found neither; "
                "save the checkpoint as safetensors"
            )
        try:
            with safe_open(path, framework="pt") as file:
                return dict.fromkeys(file.keys(), _SINGLE)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: not a safetensors file ({error})") from error

    def _read_json(self, name: str, optional: bool = False) -> Any:
        path = self._path(name, optional)
        if path is None:
            return None
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot be read as JSON ({error})") from error

    def _path(self, name: str, optional: bool = False) -> Path | None:
        """The local path of a file of the checkpoint; None if it is optional and missing."""
        if self._directory is not None:
            path = self._directory / name
            if path.is_file():
                return path
        else:
            from huggingface_hub import hf_hub_download
            from huggingface_hub.errors import (
                EntryNotFoundError,
                HfHubHTTPError,
                HFValidationError,
                LocalEntryNotFoundError,
            )

            try:
                return Path(hf_hub_download(self.source, name, revision=self.revision))
            except LocalEntryNotFoundError as error:
                # The hub is unreachable: for a required file another error than a missing file.
                if not optional:
                    raise self._fetch_error(error) from error
            except EntryNotFoundError:
                pass
            except (OSError, HFValidationError, HfHubHTTPError) as error:
                raise self._fetch_error(error) from error
        if optional:
            return None
        raise ConfigError(
            f"{self.source}: expected a file {name}, found none; check that it is a checkpoint"
        )

    def _fetch_error(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.source!r} is neither a directory nor a checkpoint that can be fetched from the "
            f"hub ({type(error).__name__}); expected a path or an id such as {CONVERTED_EXAMPLE}"
        )


def _check_is_llava(config: Any, source: str) -> None:
    """Raise ConfigError unless the model is transformers' LLaVA with a CLIP vision tower."""
    config = config if isinstance(config, dict) else {}
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
    tower = vision.get("model_type", "clip_vision_model")
    if tower != "clip_vision_model":
        raise ConfigError(
            f"{source} has a vision tower of type {tower!r}; expected 'clip_vision_model'"
        )
