"""Type checks for dataclasses whose fields were read from JSON."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from aligned_vq.errors import ConfigError


def check_declared(instance: Any) -> None:
    """Raise ConfigError if a field of a dataclass, or of a nested one, has not its declared type.

    Supported are plain classes, `Literal`, unions, and tuples of them. As in JSON, an integer is a
    valid float; a bool is not a number.
    """
    hints = typing.get_type_hints(type(instance))
    for field in fields(instance):
        value, hint = getattr(instance, field.name), hints[field.name]
        if not _matches(value, hint):
            raise ConfigError(
                f"{field.name} of {type(instance).__name__} must be {_describe(hint)}, "
                f"got {value!r:.80}; correct it"
            )
        for item in value if isinstance(value, tuple) else (value,):
            if is_dataclass(item):
                check_declared(item)


def _matches(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_matches(value, option) for option in arguments)
    if origin is Literal:
        return any(type(value) is type(option) and value == option for option in arguments)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        if arguments[-1] is Ellipsis:
            return all(_matches(item, arguments[0]) for item in value)
        return len(value) == len(arguments) and all(map(_matches, value, arguments))
    return type(value) is hint or (hint is float and type(value) is int)


def _describe(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
