"""YAML files that people write: errors name the file, and keys that mean nothing are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aligned_vq.errors import ConfigError

T = TypeVar("T")


def read_yaml(path: Path, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of a file's contents.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or `parse` says so; it names the file.
    """
    try:
        return parse(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected a YAML file that can be read ({told})") from error


def mapping(value: Any, where: str, keys: Iterable[str] | None = None) -> Mapping[str, Any]:
    """`value`, if it is a mapping, with no keys but `keys` where they are given.

    Raises:
        ConfigError: it is none, or has another key; `where` says what it is.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {value!r:.80}")
    known = value if keys is None else tuple(keys)
    for key in value:
        if key not in known:
            raise ConfigError(f"unknown key {key} in {where}: expected one of {', '.join(known)}")
    return value
