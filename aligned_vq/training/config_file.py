"""A run's configuration from YAML, with types checked and unknown keys refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml
from aligned_vq.training.config import TrainConfig

_DEFAULTS = TrainConfig()


def read_config(path: Path, changes: Sequence[str] = ()) -> TrainConfig:
    """The configuration in a YAML file, with changes such as `task.steps=10` applied.

    Raises:
        ConfigError: the file cannot be read, or a key or value is not one of `TrainConfig`'s.
    """
    settings = read_yaml(path, lambda loaded: dict(mapping(loaded, "a training run")))
    for change in changes:
        key, equals, value = change.partition("=")
        if not equals:
            raise ConfigError(f"expected a change such as task.steps=10, got {change!r}")
        place = settings
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise ConfigError(f"{key}: {parent!r} is a value, not a section")
        try:
            # Typed as in a file: a number, a list, null.
            place[last] = yaml.safe_load(value)
        except yaml.YAMLError as error:
            raise ConfigError(f"{key}: {value!r} cannot be read as YAML ({error})") from error
    return config_from(settings, str(path))


def config_from(settings: Mapping[str, Any], source: str) -> TrainConfig:
    """The configuration in a mapping; ConfigError names `source` and the wrong key."""
    settings = dict(settings)
    if settings.get("precision") is False:  # YAML reads a bare `no` so
        settings["precision"] = "no"
    sections = {f.name for f in fields(TrainConfig) if is_dataclass(getattr(_DEFAULTS, f.name))}
    for name in sections.intersection(settings):
        if not isinstance(settings[name], Mapping):
            raise ConfigError(f"{source}: expected keys below {name!r}, got {settings[name]!r:.80}")
    parser = ArgumentParser(exit_on_error=False)  # exceptions instead of an exit with a usage text
    parser.add_argument("--run", type=TrainConfig, default=_DEFAULTS)
    try:
        config: TrainConfig = parser.instantiate(parser.parse_object({"run": settings})).run
    except (ArgumentError, TypeError, ValueError) as error:
        # jsonargparse's message without the names of this parser.
        words = " ".join(str(error).split())
        words = words.removeprefix("Group 'run' ").removeprefix("Parser key ")
        words = words.replace('"run.', '"', 1)
        raise ConfigError(f"{source}: {words}") from error
    return config
