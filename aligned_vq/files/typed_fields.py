"""Dataclasses read from JSON, held to the types that their fields are declared with."""

from __future__ import annotations

import types
import typing
from dataclasses import fields, is_dataclass
from typing import Any, Literal

from aligned_vq.errors import ConfigError


def check_declared(found: Any) -> None:
    """ConfigError where a field of a dataclass, or of one inside it, is not of its declared type.

    Understood are plain classes, `Literal`, unions and tuples of them. As in JSON, a whole number
    may stand for a float; a bool is no number.
    """
    hints = typing.get_type_hints(type(found))
    for field in fields(found):
        value = getattr(found, field.name)
        if not _fits(value, hints[field.name]):
            raise ConfigError(
                f"{field.name} of {type(found).__name__} must be {_words(hints[field.name])}, "
                f"got {value!r:.80}; write it as such"
            )
        for one in value if isinstance(value, tuple) else (value,):
            if is_dataclass(one):
                check_declared(one)


def _fits(value: Any, hint: Any) -> bool:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_fits(value, one) for one in arguments)
    if origin is Literal:
        return any(type(value) is type(one) and value == one for one in arguments)
    if origin is tuple:
        if type(value) is not tuple:
            return False
        if arguments[-1] is Ellipsis:
            return all(_fits(one, arguments[0]) for one in value)
        return len(value) == len(arguments) and all(map(_fits, value, arguments))
    return type(value) is hint or (hint is float and type(value) is int)


def _words(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
