"""YAML files that people write: errors name the file; unknown keys and double ones are refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aligned_vq.errors import ConfigError

T = TypeVar("T")


class DoubleKey(yaml.YAMLError):
    """A mapping names a key twice, of which YAML would keep the last.

    Args:
        key: the one.
        line: of the second, from 1.
    """

    def __init__(self, key: str, line: int) -> None:
        super().__init__(f"the key {key!r} comes twice, again in line {line}; remove one")
        self.key = key


class SingleKeys:
    """Before a loader of PyYAML's among a class's bases: raises DoubleKey."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """See `yaml.composer.Composer`; what `<<` merges comes later and may be named again."""
        node = super().compose_mapping_node(anchor)  # type: ignore[misc]
        seen = set()
        for key, _ in node.value:
            told = (key.tag, key.value) if isinstance(key, yaml.ScalarNode) else None
            if told in seen:
                raise DoubleKey(key.value, key.start_mark.line + 1)
            if told is not None:
                seen.add(told)
        return node


class _SingleKeyLoader(SingleKeys, yaml.SafeLoader):
    """What `yaml.safe_load` takes, but for double keys."""


def read_yaml(path: Path, parse: Callable[[Any], T]) -> T:
    """What `parse` makes of a file's contents.

    Raises:
        ConfigError: the file cannot be read, is not YAML, or `parse` says so; it names the file.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _SingleKeyLoader)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:  # a date may be none
        told = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected a YAML file that can be read ({told})") from error
    try:
        return parse(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


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
