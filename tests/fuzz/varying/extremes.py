"""Values at the edges of their types, and JSON varied with them."""

from __future__ import annotations

import json
import random
from typing import Any

FLOATS = (
    *(0.0, -0.0, 1.0, -1.0, 1e-45, 1.1e-38, 5e-324, 1e-5, 0.1, 0.7, 10.0, 10.000001, 3.4e38),
    *(1.7e308, float("inf"), float("-inf"), float("nan")),
)
INTEGERS = (
    *(0, 1, 2, 3, 7, 32, 33, 255, 577, 4096, 65_535, 65_536, 2**31 - 1, 2**31, 2**32 - 1),
    *(2**32, 2**53 + 1, 2**63 - 1, 2**64 - 1, 2**64, 10**40, -1, -(2**31), -(2**63)),
)
TEXTS = (
    *("", " ", "a", "<image>", "USER:", "</s>", "\0", "\n\r\t", "\x7f\x1b[2J", "\ufeff", "\ufffd"),
    *(
        "\u202e",
        "\u200d",
        "e\u0301",
        "\U0001f469\u200d\U0001f52c",
        "\U000e0001",
        "\ud7ff",
        "\uffff",
    ),
    *(
        "\u0130",
        "\ufdfa",
        "\u0661\u0662",
        "\u00b2",
        "null",
        "1e-45",
        "a" * 300,
        "data:image/png;base64,",
    ),
)
SURROGATES = ("\ud800", "a\udfff", "\udc00\ud800")
_WHOLE: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": {}})


def any_value(rng: random.Random) -> Any:
    """A JSON value that is likely to be wrong where it comes to stand."""
    kind = rng.choice((FLOATS, INTEGERS, TEXTS, SURROGATES, _WHOLE))
    return rng.choice(kind)


def vary_json(rng: random.Random, text: bytes) -> bytes:
    """JSON with one value replaced, dropped, repeated, wrapped or nested deeply; ValueError or
    RecursionError for what is no JSON."""
    root = [json.loads(text)]
    holder, key = rng.choice(_places(root))
    value = holder[key]
    match rng.randrange(8):
        case 0 if holder is not root:
            del holder[key]
        case 1 if isinstance(holder, list) and holder is not root:
            holder.insert(rng.randrange(len(holder) + 1), value)
        case 2 if isinstance(holder, dict):
            holder[rng.choice((*holder, *TEXTS))] = holder.pop(key)
        case 3:
            holder[key] = rng.choice(
                ([value], {"a": value}, [value] * rng.randrange(40), str(value))
            )
        case 4 if isinstance(value, str):
            at = rng.randrange(len(value) + 1)
            holder[key] = value[:at] + rng.choice((*TEXTS, *SURROGATES)) + value[at:]
        case _:
            holder[key] = any_value(rng)
    if rng.random() < 0.02:
        return _nested(rng, root[0])
    return json.dumps(root[0], ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")


def _places(root: list[Any]) -> list[tuple[Any, Any]]:
    """Every value below a list, by what holds it and under which key."""
    found: list[tuple[Any, Any]] = []
    waiting: list[Any] = [root]
    while waiting:
        holder = waiting.pop()
        keys = list(holder) if isinstance(holder, dict) else range(len(holder))
        found += [(holder, key) for key in keys]
        waiting += [holder[key] for key in keys if isinstance(holder[key], dict | list)]
    return found


def _nested(rng: random.Random, value: Any) -> bytes:
    opened, closed = rng.choice((("[", "]"), ('{"a":', "}")))
    depth = rng.choice((100, 500, 2_000))
    return (opened * depth + json.dumps(value) + closed * depth).encode()
