"""A chat request's JSON, up to the file in its data URI; pixels are another module's concern.

Invariant: a body is refused with a 400 whose JSON can be sent, or becomes a question that the cloud
can be asked: Unicode throughout, settings in range, no turn without a question. The conversation
read from its own turns is the same again. A request comes to the same, whether its images are taken
out before it is parsed or not. No refusal quotes more than a field's name.
"""

from __future__ import annotations

import base64
import json
import random
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

from aligned_vq.errors import InvalidInput
from edge_client.decoding.job import NotBase64, encoded_file
from edge_client.gateway.index_map import IndexMapRequest
from edge_client.gateway.openai import inline_images
from edge_client.gateway.openai.body import parse
from edge_client.gateway.openai.chat_request import ChatRequest, Message
from edge_client.gateway.openai.conversation import read_conversation
from edge_client.gateway.openai.inline_images import Body, encoded_text, extract_images
from edge_client.gateway.openai.refusal import Refusal
from protos.convert import question_from_proto, question_to_proto
from protos.messages import Question, Turn
from tests.fuzz.target import Mutate, Target
from tests.fuzz.varying.extremes import vary_json

DIGEST = bytes(range(16))
_MODEL = "m"
_BASE64 = re.compile(rb"[A-Za-z0-9+/=]*")


@dataclass(frozen=True)
class _Asked:
    """What a request comes to: what is asked, and the file that its data URI holds."""

    question: Question
    file: bytes | None


def check(data: bytes) -> None:
    """See the module's invariant."""
    for read in (_question, _index_map):
        whole = _told(read, Body(data, ()))
        with patch.object(inline_images, "_MIN_TEXT_BYTES", 8):  # inputs are short
            body = extract_images(bytearray(data))
        taken = _told(read, body)
        # What is no base64 is refused where it is read, and a mark names an image of the request's.
        plain = b",#" not in data and all(map(_BASE64.fullmatch, map(bytes, body.images)))
        if plain or (whole is not None and taken is not None):
            assert taken == whole, "taking images out changes what is asked"


def _told(read: Callable[[Body], _Asked], body: Body) -> _Asked | None:
    """What `read` makes of a body; None where it is refused, which is as it must be."""
    try:
        return read(body)
    except Refusal as refusal:
        _check_refusal(refusal)
        return None


def _index_map(body: Body) -> _Asked:
    url = parse(IndexMapRequest, body.json).image
    return _Asked(Question("", DIGEST, "?"), _file(url, "image", body))


def _question(body: Body) -> _Asked:
    request = parse(ChatRequest, body.json)
    request.check_unread_fields()
    found = read_conversation(request.messages)
    turns = tuple(Turn(*turn) for turn in found.turns)
    try:
        question = Question("", DIGEST, found.question, request.sampling, turns=turns)
    except InvalidInput as error:
        raise Refusal.of(error) from error
    try:
        _check_question(question)
    except (InvalidInput, Refusal) as error:
        raise AssertionError("what was accepted is refused when it is said again") from error
    if found.image_url is None:
        return _Asked(question, None)
    return _Asked(question, _file(found.image_url, found.image_param, body))


def _file(url: str, param: str, body: Body) -> bytes:
    """The file in a data URI, as the process that decodes it reads it."""
    text = bytearray(encoded_text(url, param, body.images))
    try:
        return bytes(encoded_file({"coding": "base64"}, text))
    except NotBase64 as error:
        raise Refusal.of(error) from error


def _check_question(question: Question) -> None:
    sent = question_to_proto(question)
    received = question_from_proto(type(sent).FromString(sent.SerializeToString()))
    assert (received.text, received.turns) == (question.text, question.turns)
    assert question.text.strip()
    said: list[dict[str, Any]] = []
    for turn in question.turns:
        assert turn.question.strip()
        said.append({"role": "user", "content": turn.question})
        said.append({"role": "assistant", "content": turn.answer})
    said.append({"role": "user", "content": question.text})
    again = read_conversation([Message.model_validate(one) for one in said])
    assert (again.question, again.turns) == (question.text, question.turns)


def _check_refusal(refusal: Refusal) -> None:
    assert refusal.status == 400, refusal.status
    assert str(refusal)
    assert len(str(refusal)) < 1_000
    body = json.loads(bytes(refusal.response().body))
    assert body["error"]["message"] == str(refusal)


def seeds() -> Iterator[bytes]:
    """Requests as OpenAI's clients send them, and what the page sends."""
    url = "data:image/png;base64," + base64.b64encode(bytes(range(20))).decode()
    picture = {"type": "image_url", "image_url": {"url": url, "detail": "auto"}}
    asked = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, picture]}
    answered = {"role": "assistant", "content": "A tie."}
    system = {"role": "system", "content": "Be short."}
    plain = {"role": "user", "content": "And its colour?"}
    yield _json(messages=[plain])
    yield _json(messages=[system, asked, answered, plain], stream=True)
    yield _json(messages=[asked], temperature=0.7, top_p=0.9, seed=5, max_tokens=20, stop=["\n"])
    yield _json(messages=[plain], max_completion_tokens=1, stop="END", quality="low")
    yield _json(messages=[plain], stream_options={"include_usage": True}, n=1, tools=[])
    other = "data:image/png;base64," + base64.b64encode(bytes(9)).decode()
    yield _json(metadata={"url": other}, messages=[asked, answered, asked])
    yield json.dumps({"image": url, "quality": "low"}).encode()


def _json(**fields: Any) -> bytes:
    return json.dumps({"model": _MODEL, **fields}).encode()


def vary(rng: random.Random, data: bytes, mutate: Mutate) -> bytes:
    """A value of the JSON changed, or bytes where it is none."""
    if rng.random() < 0.8:
        try:
            return vary_json(rng, data)[: TARGET.max_bytes]
        except (ValueError, RecursionError):
            pass
    return mutate(data, TARGET.max_bytes)


TARGET = Target("chat", check, seeds, vary, max_bytes=4_000)
