"""A checkpoint of any model in Hugging Face format, on disk or on the hub, opened lazily.

Only the safetensors headers are read up front; a tensor's bytes are read when it is needed, and
from the hub only the files that hold it are fetched.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from aligned_vq.checkpoints.digest import FILES, checkpoint_digest
from aligned_vq.errors import ConfigError
from aligned_vq.images.processor import ProcessorSettings

_INDEX = "model.safetensors.index.json"
_SINGLE = "model.safetensors"


class LazyCheckpoint:
    """Settings and tensor names at once, tensors when they are needed.

    Args:
        source: a directory in Hugging Face format, or a hub id such as `llava-hf/llava-1.5-7b-hf`.
        revision: the hub revision; ignored for a directory.
        example: a hub id that would work, for error messages.

    Raises:
        ConfigError: the source is missing, or holds no safetensors checkpoint.
    """

    def __init__(self, source: str | Path, revision: str | None, example: str) -> None:
        self.source = str(source)
        self.revision = revision
        self._example = example
        self._directory = Path(source) if Path(source).is_dir() else None
        self.config: Any = self._read_json("config.json")
        self._check_config()
        self._files = self._tensor_files()
        self.opened: set[str] = set()
        """Names of every tensor read so far, as stored."""

    def _check_config(self) -> None:
        """Raise ConfigError unless `config` is of a model that the class supports; called before
        tensor names are read."""

    @property
    def model_id(self) -> str:
        """A name for the manifest: the hub id, or the directory's name."""
        return self.source if self._directory is None else self._directory.resolve().name

    def processor(self) -> ProcessorSettings:
        """The image processor's settings."""
        # Newer releases of transformers write the first name; it may lack the image settings.
        for name in ("processor_config.json", "preprocessor_config.json"):
            settings = self._read_json(name, optional=True)
            if settings and ("image_processor" in settings or "image_mean" in settings):
                return ProcessorSettings.from_dict(settings)
        raise ConfigError(
            f"{self.source}: expected preprocessor_config.json or processor_config.json with image "
            "settings, found neither; save the processor beside the model"
        )

    @property
    def tensor_names(self) -> frozenset[str]:
        """Names of all tensors, as stored."""
        return frozenset(self._files)

    def tensor(self, stored: str) -> Tensor:
        """A tensor by its stored name, in its stored dtype.

        Raises:
            ConfigError: there is none of that name, or its file is damaged.
        """
        if stored not in self._files:
            raise ConfigError(
                f"{self.source}: expected a tensor {stored!r}, found none of that name"
            )
        self.opened.add(stored)
        path = self._path(self._files[stored])
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(stored)
        except (OSError, SafetensorError) as error:
            raise ConfigError(f"{path}: cannot read {stored} ({error}); fetch it again") from error
        return tensor

    def stored_name(self, name: str, prefixes: Iterable[str]) -> str | None:
        """The first stored name that is one of `prefixes` followed by `name`; None without one."""
        candidates = (prefix + name for prefix in prefixes)
        return next((stored for stored in candidates if stored in self._files), None)

    def digest(self) -> str:
        """SHA-256 over all of the checkpoint's files, whatever its folder's name; reads them."""
        return checkpoint_digest(self.directory())

    def directory(self) -> Path:
        """A local directory with the whole checkpoint; fetched from the hub if it has to be."""
        if self._directory is None:
            # Imported here, because directories do not need it.
            from huggingface_hub import snapshot_download
            from huggingface_hub.errors import HfHubHTTPError

            try:
                fetched = snapshot_download(
                    self.source, revision=self.revision, allow_patterns=list(FILES)
                )
            except (OSError, HfHubHTTPError) as error:
                raise self._cannot_fetch(error) from error
            self._directory = Path(fetched)
        return self._directory

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
        """Where a file of the checkpoint lies on this machine; None if optional and absent."""
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
            except LocalEntryNotFoundError as error:  # the hub cannot be reached: not the same as
                if not optional:  # a file that is not there, unless the file may be absent
                    raise self._cannot_fetch(error) from error
            except EntryNotFoundError:
                pass
            except (OSError, HFValidationError, HfHubHTTPError) as error:
                raise self._cannot_fetch(error) from error
        if optional:
            return None
        raise ConfigError(f"{self.source}: expected a file {name}, found none; is it a checkpoint?")

    def _cannot_fetch(self, error: Exception) -> ConfigError:
        return ConfigError(
            f"{self.source!r} is neither a directory nor a checkpoint that can be fetched from the "
            f"hub ({type(error).__name__}); expected a path or an id such as {self._example}"
        )


def tensors_digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 over the names, shapes, dtypes and bytes of tensors, in the order of their names."""
    state = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        state.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}\n".encode())
        # A view as bytes, because numpy has no bfloat16.
        state.update(tensor.contiguous().view(torch.uint8).numpy().data)
    return state.hexdigest()
