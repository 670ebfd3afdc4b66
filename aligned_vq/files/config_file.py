"""Dataclasses of settings from YAML, with types checked and unknown keys refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any, TypeVar

import yaml
from jsonargparse import ArgumentError, ArgumentParser

from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml

ConfigT = TypeVar("ConfigT")


def read_settings(path: Path, what: str, changes: Sequence[str] = ()) -> dict[str, Any]:
    """The mapping in a YAML file, with changes such as `task.steps=10` applied.

    Args:
        path: of the file.
        what: what the file describes, for messages.
        changes: a dotted key, `=` and a value in YAML.

    Raises:
        ConfigError: the file cannot be read or is no mapping, or a change is not of this form.
    """
    settings = read_yaml(path, lambda loaded: dict(mapping(loaded, what)))
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
        except (RecursionError, ValueError, yaml.YAMLError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{key}: {value!r} cannot be read as YAML ({reason}); put text in quotes"
            ) from error
    return settings


def config_of(defaults: ConfigT, settings: Mapping[str, Any], source: str) -> ConfigT:
    """A dataclass of the class of `defaults`, with the values in `settings`.

    Raises:
        ConfigError: a key or value is not one of the class's; the message names `source`.
    """
    kind: type[ConfigT] = type(defaults)
    declared = fields(kind)  # type: ignore[arg-type]
    sections = {f.name for f in declared if is_dataclass(getattr(defaults, f.name))}
    for name in sections.intersection(settings):
        if not isinstance(settings[name], Mapping):
            raise ConfigError(f"{source}: expected keys below {name!r}, got {settings[name]!r:.80}")
    parser = ArgumentParser(exit_on_error=False)  # exceptions instead of an exit with a usage text
    parser.add_argument("--run", type=kind, default=defaults)
    try:
        parsed = parser.parse_object({"run": dict(settings)})
        config: ConfigT = parser.instantiate(parsed).run
    except (ArgumentError, RecursionError, TypeError, ValueError) as error:
        # jsonargparse's message without the names of this parser.
        words = " ".join(str(error).split())
        words = words.removeprefix("Group 'run' ").removeprefix("Parser key ")
        words = words.replace('"run.', '"', 1)
        raise ConfigError(f"{source}: {words}") from error
    return config
