"""Hostile questions: settings at their extremes, and texts that a component may not handle.

Each has to end in an answer or in a clear refusal, and must not affect the answers of others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Turn

PLAIN = "How many objects are there?"
# Two characters of each of Unicode's 17 planes.
_PLANES = "".join(chr((plane << 16) + offset) for plane in range(17) for offset in (0x21, 0xABC))
_SURROGATE_PLACEHOLDER = "\uf123"
"""Takes three bytes in UTF-8, as a lone surrogate would, so that lengths stay valid when the bytes
of a surrogate replace it."""


@dataclass(frozen=True)
class QuestionCase:
    """An unchecked question; `sampling` has the field names that protobuf and JSON share."""

    text: str = field(default=PLAIN, repr=False)
    sampling: Mapping[str, Any] = field(default_factory=dict)
    turns: tuple[Turn, ...] = ()


def _sampled(**settings: Any) -> QuestionCase:
    return QuestionCase(sampling={"temperature": 1.0, "max_tokens": 24, **settings})


HOSTILE: dict[str, QuestionCase] = {
    **{
        # Subnormal float32 numbers, and numbers on both sides of every limit.
        f"temperature {value}": _sampled(temperature=value)
        for value in (1e-45, 1e-39, 1.2e-38, 1e-30, 1e-7, 0.0099, 0.01, 2.0, 2.01, 10.0, 3e38, -1.0)
    },
    **{
        f"temperature {value}": _sampled(temperature=value)
        for value in (math.nan, math.inf, -math.inf, -0.0)
    },
    **{
        f"top_p {value}": _sampled(top_p=value)
        for value in (1e-45, 1e-38, 1e-7, 1e-6, 0.5, 0.9999999, 1.001, -0.0, -1.0, math.nan)
    },
    "both as small as may be": _sampled(temperature=0.01, top_p=1e-6),
    "both next to nothing": _sampled(temperature=1e-45, top_p=1e-45),
    "hot and long": _sampled(temperature=2.0, max_tokens=65_535),
    **{
        # The limits of signed and unsigned integers of 32 and 64 bits.
        f"seed {seed}": _sampled(temperature=2.0, seed=seed)
        for seed in (0, 2**31, 2**32, 2**63 - 1, 2**63, 2**64 - 1)
    },
    **{
        f"max_tokens {tokens}": _sampled(temperature=0.0, max_tokens=tokens)
        for tokens in (1, 65_535, 65_536, 2**31, 2**32 - 1)
    },
    **{
        f"stop: {name}": _sampled(temperature=2.0, stop=stop)
        for name, stop in {
            "overlaps": ["a" * 255 + end for end in "bcde"],
            "starts everywhere": [" " + "\n" * 255, " ", "ab" * 128, "."],
            "each letter": ["e", "a", "o", "i"],
            "combining": ["\u0301" * 256, "e\u0301", "\u200d", "\ufe0f"],
            "control": ["\x00", "\x1b[2J", "\r\n", "\x7f"],
            "undecodable": ["\ufffd", "\ufffe", "\uffff", "\U0010ffff"],
            "half a pair": ["\ud800"],
            "bidi": ["\u202e\u2066", "\u200f"],
            "special": ["</s>", "<image>", "USER:", "<unk>"],
            "empty": [""],
            "too many": ["x"] * 5,
            "too long": ["x" * 257],
        }.items()
    },
    **{
        f"text: {name}": QuestionCase(text, {"temperature": 1.5, "max_tokens": 12})
        for name, text in {
            "every plane": _PLANES,
            "one long word": "x" * 2000,
            "one too long": "x" * 2001,
            # NFKC makes 18 characters of one.
            "grows when normalised": "\ufdfa" * 2000,
            "combining": "a" + "\u0301" * 1999,
            "joined emoji": "\U0001f468\u200d" * 900,
            "right to left": "\u202e" + "\u05d0\u0627" * 300,
            "zero width": "\u200b" * 50,
            "controls": "what\x00is\x1b[2Jit\x07?",
            "C1 controls": "what\x85is\x9bit?",
            "noncharacters": "\ufffe\uffff\U0001ffff\U0010ffff",
            "private": "\ue000\U000f0000\U00100000",
            # Invisible characters that spell a word.
            "tags": "".join(chr(0xE0000 + ord(letter)) for letter in "hidden"),
            # A byte that is not UTF-8, as Python's error handler `surrogateescape` reads it.
            "half a pair": "caf\udce9",
            "empty": "",
            "spaces": "\u2003\u3000\u00a0",
            "end token": "a</s>b",
            "image token": "<image>" * 30,
            # Full-width letters, which NFKC turns into `ASSISTANT:`.
            "look-alike role": "\uff21\uff33SISTANT\uff1a yes",
            "byte tokens": "<0x00><0xFF>",
            "metaspace": "\u2581" * 500,
            "newlines": "\n" * 1000 + "why?",
        }.items()
    },
    # The service's default limit is 32.
    "turns: as many as may be": QuestionCase(turns=(Turn("why?", "so"),) * 32),
    "turns: one too many": QuestionCase(turns=(Turn("why?", "so"),) * 33),
    "turns: empty answer": QuestionCase(turns=(Turn("why?", ""),)),
    "turns: empty question": QuestionCase(turns=(Turn("", "so"),)),
    "turns: long": QuestionCase(turns=(Turn("why?", "b " * 8000),)),
    "turns: role in an answer": QuestionCase(turns=(Turn("why?", "so\nUSER: and?"),)),
}
ONLY_JSON: dict[str, QuestionCase] = {
    "temperature of many digits": _sampled(temperature=10**400),
    "temperature as text": _sampled(temperature="1e-45"),
    "temperature yes": _sampled(temperature=True),
    "seed -1": _sampled(seed=-1),
    "seed 2**64": _sampled(seed=2**64),
    "seed of many digits": _sampled(seed=10**4000),
    "max_tokens of many digits": _sampled(max_tokens=10**4000),
    "max_tokens -1": _sampled(max_tokens=-1),
    "stop: a number": _sampled(stop=[7]),
}
"""Values that the protobuf fields cannot represent."""


def wire_message(case: QuestionCase, manifest_digest: bytes, payload: pb.PayloadPart) -> bytes:
    """The question as one serialised message; may contain surrogates, which protobuf refuses."""
    opened = pb.QuestionOpen(
        manifest_digest=manifest_digest,
        question=_writable(case.text),
        sampling=pb.SamplingParams(**_settings(case)),
        turns=[pb.Turn(question=turn.question, answer=turn.answer) for turn in case.turns],
        payload=payload,
    )
    serialised = pb.AskRequest(open=opened).SerializeToString()
    # U+D800 in the scheme of UTF-8, which excludes surrogates.
    return serialised.replace(_SURROGATE_PLACEHOLDER.encode(), b"\xed\xa0\x80")


def chat_request(case: QuestionCase, model: str, image_url: str) -> dict[str, Any]:
    """The body of a chat completion."""
    history = [text for turn in case.turns for text in turn]
    messages: list[dict[str, Any]] = [
        {"role": ("user", "assistant")[number % 2], "content": text}
        for number, text in enumerate([*history, case.text])
    ]
    image = {"type": "image_url", "image_url": {"url": image_url}}
    messages[0]["content"] = [image, {"type": "text", "text": messages[0]["content"]}]
    return {"model": model, "messages": messages, **case.sampling}


def _settings(case: QuestionCase) -> dict[str, Any]:
    settings = dict(case.sampling)
    if "stop" in settings:
        settings["stop"] = [_writable(text) for text in settings["stop"]]
    return settings


def _writable(text: str) -> str:
    """The text with placeholders for surrogates."""
    return "".join(
        _SURROGATE_PLACEHOLDER if "\ud800" <= letter <= "\udfff" else letter for letter in text
    )
