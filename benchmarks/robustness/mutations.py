"""Seeded mutations of questions: what a faulty or hostile client could send over gRPC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from aligned_vq.answers import Sampling
from aligned_vq.types import CODINGS, Encoded, Payload
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question

Messages = list[bytes]
Mutation = Callable[[np.random.Generator, Messages], Messages]

FRAGMENTS = (
    "<image>",
    "USER:",
    "ASSISTANT:",
    "</s>",
    "\x00",
    "\u202e",
    "🐞",
    "a" * 3000,
    " ",
    "\ud7ff",  # the last character before the surrogates
    "\ufeff",
    "\u200d\U0001f469\u200d",
    "e\u0301" * 20,
    "\U000e0001\ufff9",
    "\ufdfa\u0130\u212a",
    "\r\n\x7f\x1b[2J",
)
# Subnormal float32 numbers, both neighbours of the normal range, and small normal ones.
_SMALL = (1e-45, 2.8e-45, 1.1754942e-38, 1.1754944e-38, 1e-30, 1e-10, 1e-5, 1e-4)
# Quiet and signalling NaNs of both signs.
_NAN_PAYLOADS = (0x7FC00000, 0x7F800001, 0xFFC00000, 0x7FFFFFFF, 0xFF800001)
TEMPERATURES = (*_SMALL, 0.0, -0.0, 1e-3, 0.7, 9.999999, 10, 10.000001, 3.4e38, np.inf, -np.inf, -1)
TOP_PS = (*_SMALL, 0.0, -0.0, 0.5, 0.9999999, 1, 1.0000001, 2, np.inf, -1)
# 2**53 + 1 is the first integer that float64, the number of JavaScript, cannot represent.
SEEDS = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1)
MAX_TOKENS = (0, 1, 2, 3, 4095, 65_535, 65_536, 2**31 - 1, 2**32 - 1)


def serialised(payload: Payload, text: str, tokens: int = 2) -> Messages:
    """The messages of a valid question with its payload."""
    question = Question("", payload.manifest_digest, text, Sampling(tokens))
    opened = pb.AskRequest(open=convert.question_to_proto(question))
    parts = (pb.AskRequest(payload=part) for part in convert.payload_to_parts(payload))
    return [message.SerializeToString() for message in (opened, *parts)]


def mutate(
    rng: np.random.Generator,
    payload: Payload,
    encoded: Encoded,
    repack: Callable[[Encoded], Payload],
) -> Messages:
    """The messages of a mutated question.

    One in fifty is instead a valid question with shuffled indices, which has to be answered.
    """
    # Valid payloads make sure that the fuzzer also reaches the code behind the checks.
    if rng.random() < 0.02:
        return serialised(repack(shuffle_indices(rng, encoded)), "What is it?")
    messages = serialised(payload, "How many objects are there?")
    for _ in range(int(rng.integers(1, 4))):
        mutation = MUTATIONS[int(rng.integers(len(MUTATIONS)))]
        messages = mutation(rng, messages) if messages else messages
    return messages


def shuffle_indices(rng: np.random.Generator, encoded: Encoded) -> Encoded:
    """The image with the indices of each stage in another order: valid, and not cached."""
    stages = tuple(
        replace(stage, indices=rng.permutation(stage.indices)) for stage in encoded.stages
    )
    return replace(encoded, stages=stages)


def _any(rng: np.random.Generator, messages: Sequence[bytes]) -> int:
    return int(rng.integers(len(messages)))


def _flip(rng: np.random.Generator, messages: Messages) -> Messages:
    """Flip some bits of a message."""
    place = _any(rng, messages)
    raw = bytearray(messages[place])
    for _ in range(int(rng.integers(1, 6))):
        if raw:
            raw[int(rng.integers(len(raw)))] ^= 1 << int(rng.integers(8))
    return [*messages[:place], bytes(raw), *messages[place + 1 :]]


def _cut(rng: np.random.Generator, messages: Messages) -> Messages:
    """Truncate a message."""
    place = _any(rng, messages)
    raw = messages[place]
    end = int(rng.integers(len(raw) + 1))
    return [*messages[:place], raw[:end], *messages[place + 1 :]]


def _insert(rng: np.random.Generator, messages: Messages) -> Messages:
    """Insert random bytes into a message."""
    place = _any(rng, messages)
    raw = messages[place]
    at = int(rng.integers(len(raw) + 1))
    more = rng.bytes(int(rng.integers(1, 40)))
    return [*messages[:place], raw[:at] + more + raw[at:], *messages[place + 1 :]]


def _reorder(rng: np.random.Generator, messages: Messages) -> Messages:
    """Repeat, drop or reorder messages."""
    order = rng.integers(0, len(messages), int(rng.integers(0, len(messages) + 2)))
    return [messages[int(number)] for number in order]


def _header(rng: np.random.Generator, messages: Messages) -> Messages:
    """Change a field of the payload's header."""
    return _edited(messages, lambda request: _set_header(rng, request))


def _set_header(rng: np.random.Generator, request: pb.AskRequest) -> None:
    if request.WhichOneof("kind") != "payload":
        return
    header = request.payload.header
    # Around the reference bundle's values and the limits of the types.
    values = {
        "coding": rng.integers(0, len(CODINGS) + 3),
        "num_tokens": rng.choice([0, 1, 576, 577, 578, 65_535, 2**32 - 1]),
        "num_stages": rng.choice([0, 1, 4, 5, 6, 32, 33, 2**32 - 1]),
        "masked_stages": rng.choice([0, 1, 30, 31, 2**31, 2**32 - 1]),
        "body_bytes": rng.choice([0, 1, 100, 866, 867, 2**20, 2**32 - 1]),
        "crc32": rng.integers(0, 2**32),
    }
    name = str(rng.choice(list(values)))
    setattr(header, name, int(values[name]))


def _question(rng: np.random.Generator, messages: Messages) -> Messages:
    """Put forbidden text or sizes out of range into the question."""
    return _edited(messages, lambda request: _set_question(rng, request))


def _set_question(rng: np.random.Generator, request: pb.AskRequest) -> None:
    if request.WhichOneof("kind") != "open":
        return
    opened = request.open
    match int(rng.integers(7)):
        case 0:
            opened.question += _fragment(rng)
        case 1:
            opened.question = ""
        case 2:
            opened.manifest_digest = rng.bytes(int(rng.choice([0, 15, 16, 17, 64])))
        case 3:
            opened.image_digest = rng.bytes(int(rng.choice([1, 15, 16, 17])))
        case 4:
            opened.request_id = "x" * int(rng.choice([1, 64, 65, 1000])) + _fragment(rng)
        case 5:
            for _ in range(int(rng.choice([1, 2, 33, 4000]))):
                opened.turns.add(question=f"why{_fragment(rng)}", answer=_fragment(rng))
        case _:
            opened.text_only = True


def _sampling(rng: np.random.Generator, messages: Messages) -> Messages:
    """Set sampling parameters to the extremes of their types; some of them are allowed."""
    return _edited(messages, lambda request: _set_sampling(rng, request))


def _set_sampling(rng: np.random.Generator, request: pb.AskRequest) -> None:
    if request.WhichOneof("kind") != "open":
        return
    sampling = request.open.sampling
    sampling.temperature = _float32(rng, TEMPERATURES)
    if rng.random() < 0.7:
        sampling.top_p = _float32(rng, TOP_PS)
    if rng.random() < 0.5:
        sampling.seed = SEEDS[int(rng.integers(len(SEEDS)))]
    if rng.random() < 0.3:
        sampling.max_tokens = int(rng.choice(MAX_TOKENS))
    if rng.random() < 0.4:
        del sampling.stop[:]
        for _ in range(int(rng.choice([1, 2, 4, 5]))):
            sampling.stop.append(_stop_text(rng))


def _float32(rng: np.random.Generator, values: tuple[float, ...]) -> float:
    """One of the values, or a NaN, or a random subnormal number."""
    match int(rng.integers(10)):
        case 0:
            bits = np.uint32(rng.choice(_NAN_PAYLOADS))
        case 1:
            # An exponent of 0 and any mantissa of 23 bits: subnormal.
            bits = np.uint32(rng.integers(1, 1 << 23))
        case _:
            return float(rng.choice(values))
    return float(bits.view(np.float32))


def _fragment(rng: np.random.Generator) -> str:
    """One of the fragments, without `rng.choice`, whose NumPy strings lose a NUL at the end."""
    return FRAGMENTS[int(rng.integers(len(FRAGMENTS)))]


def _stop_text(rng: np.random.Generator) -> str:
    """A fragment, or a character of any plane, repeated to lengths around the limit."""
    if rng.random() < 0.5:
        return _fragment(rng)
    point = int(rng.integers(1, 0x110000))
    text = chr(point if not 0xD800 <= point < 0xE000 else 0xFFFD)  # protobuf refuses surrogates
    return text * int(rng.choice([1, 2, 255, 256, 257]))


def _edited(messages: Messages, edit: Callable[[pb.AskRequest], None]) -> Messages:
    """Apply an edit to every message that can still be parsed."""
    edited = []
    for raw in messages:
        request = pb.AskRequest()
        try:
            request.ParseFromString(raw)
        except Exception:  # noqa: BLE001 - an earlier mutation broke the message; it stays so
            edited.append(raw)
            continue
        edit(request)
        edited.append(request.SerializeToString())
    return edited


def _large(rng: np.random.Generator, messages: Messages) -> Messages:
    """Append a message of a size around the limit."""
    # The service accepts messages of up to 65,536 bytes.
    return [*messages, rng.bytes(int(rng.choice([60_000, 65_536, 65_537, 70_000])))]


MUTATIONS: tuple[Mutation, ...] = (
    _flip,
    _flip,
    _cut,
    _insert,
    _reorder,
    _header,
    _question,
    _sampling,
    _large,
)
