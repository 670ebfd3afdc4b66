"""Reading of YAML files: errors name the file, and duplicate or unknown keys are rejected."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml

from aligned_vq.errors import ConfigError

T = TypeVar("T")


class DoubleKey(yaml.YAMLError):
    """A mapping has a key twice; PyYAML would silently use the last one.

    Args:
        key: the duplicate key.
        line: of its second occurrence, counted from 1.
    """

    def __init__(self, key: str, line: int) -> None:
        super().__init__(f"the key {key!r} occurs twice, again in line {line}; remove one")
        self.key = key


class SingleKeys:
    """Mixin for PyYAML loaders, listed before the loader: duplicate keys raise DoubleKey."""

    def compose_mapping_node(self, anchor: Any) -> Any:
        """See `yaml.composer.Composer`."""
        # Keys that `<<` merges are added later, so they may be overridden.
        node = super().compose_mapping_node(anchor)  # type: ignore[misc]
        keys = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            if (key.tag, key.value) in keys:
                raise DoubleKey(key.value, key.start_mark.line + 1)
            keys.add((key.tag, key.value))
        return node


class _SingleKeyLoader(SingleKeys, yaml.SafeLoader):
    """As `yaml.SafeLoader`, but rejects duplicate keys."""


def read_yaml(path: Path, parse: Callable[[Any], T]) -> T:
    """The result of `parse` for a file's content.

    Raises:
        ConfigError: the file cannot be read or is not YAML, or `parse` raised ConfigError; the
            message names the file.
    """
    try:
        loaded = yaml.load(path.read_text(encoding="utf-8"), _SingleKeyLoader)
    # ValueError: not UTF-8, or an impossible date.
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{path}: expected a YAML file that can be read ({reason})") from error
    try:
        return parse(loaded)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def mapping(value: Any, where: str, keys: Iterable[str] | None = None) -> Mapping[str, Any]:
    """`value`, checked to be a mapping with no other keys than `keys` (None: any).

    Raises:
        ConfigError: not a mapping, or an unknown key; the message calls the value `where`.
    """
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} must be a mapping, got {value!r:.80}")
    allowed = value if keys is None else tuple(keys)
    for key in value:
        if key not in allowed:
            raise ConfigError(f"unknown key {key} in {where}: expected one of {', '.join(allowed)}")
    return value
