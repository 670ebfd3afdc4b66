"""A codec run's configuration from YAML."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from aligned_vq.files.config_file import config_of, read_settings
from aligned_vq.training.config import TrainConfig

_DEFAULTS = TrainConfig()


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a YAML file, with changes such as `task.steps=10` applied.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not one of `TrainConfig`'s.
    """
    return config_from(read_settings(path, "a training run", changes), str(path))


def config_from(settings: Mapping[str, Any], source: str) -> TrainConfig:
    """The configuration in a mapping; ConfigError names `source` and the wrong key."""
    settings = dict(settings)
    if settings.get("precision") is False:  # YAML reads a bare `no` so
        settings["precision"] = "no"
    return config_of(_DEFAULTS, settings, source)
