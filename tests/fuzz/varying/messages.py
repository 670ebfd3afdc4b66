"""Protobuf messages varied by field, as libprotobuf-mutator does."""

from __future__ import annotations

import random
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from tests.fuzz.target import Mutate
from tests.fuzz.varying.extremes import FLOATS, INTEGERS, TEXTS

_MAX_PIECE_BYTES = 400
_MAX_DEPTH = 6


def vary_message(rng: random.Random, message: Message, mutate: Mutate) -> None:
    """Change one field somewhere in a message, or set, clear or repeat it."""
    own = message
    for _ in range(_MAX_DEPTH):
        field: Any = rng.choice(own.DESCRIPTOR.fields)
        if rng.random() < 0.15:
            own.ClearField(field.name)
            return
        value: Any = getattr(own, field.name)
        if field.is_repeated:
            _vary_repeated(rng, value, field, mutate)
            return
        if field.type != FieldDescriptor.TYPE_MESSAGE:
            setattr(own, field.name, _scalar(rng, field, value, mutate))
            return
        value.SetInParent()
        if not field.message_type.fields:
            return
        own = value


def _vary_repeated(rng: random.Random, items: Any, field: FieldDescriptor, mutate: Mutate) -> None:
    if len(items) and rng.random() < 0.3:
        del items[rng.randrange(len(items))]
    elif field.type == FieldDescriptor.TYPE_MESSAGE:
        vary_message(
            rng, rng.choice(items) if len(items) and rng.random() < 0.6 else items.add(), mutate
        )
    elif len(items) and rng.random() < 0.6:
        place = rng.randrange(len(items))
        items[place] = _scalar(rng, field, items[place], mutate)
    else:
        items.append(_scalar(rng, field, field.default_value or 0, mutate))


def _scalar(rng: random.Random, field: FieldDescriptor, value: Any, mutate: Mutate) -> Any:
    """Another value of a field's type."""
    match field.cpp_type:
        case FieldDescriptor.CPPTYPE_FLOAT | FieldDescriptor.CPPTYPE_DOUBLE:
            return rng.choice((*FLOATS, rng.uniform(0, 2)))
        case FieldDescriptor.CPPTYPE_BOOL:
            return not value
        case FieldDescriptor.CPPTYPE_STRING if field.type == FieldDescriptor.TYPE_BYTES:
            own = value if isinstance(value, bytes) else b""
            return rng.choice((bytes(16), mutate(own, _MAX_PIECE_BYTES), own[:-1]))
        case FieldDescriptor.CPPTYPE_STRING:
            own_text = value if isinstance(value, str) else ""
            at = rng.randrange(len(own_text) + 1)
            return rng.choice(
                (rng.choice(TEXTS), own_text[:at] + rng.choice(TEXTS) + own_text[at:])
            )
        case FieldDescriptor.CPPTYPE_ENUM:
            return rng.randrange(6)
        case _:
            top = 64 if field.cpp_type == FieldDescriptor.CPPTYPE_UINT64 else 32
            return rng.choice((value + 1, value - 1, *INTEGERS)) % (1 << top)
