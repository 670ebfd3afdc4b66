"""Runs last: no log of the whole suite says what was asked, answered or sent."""

from __future__ import annotations

import base64
import json
import uuid

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf import text_format

from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question
from tests.privacy import SUITE, Secrets

QUESTION = "Is the zeppelin über the harbour violet?"
BODY = np.random.default_rng(8).bytes(300)
TOKENS = (17, 204, 9, 411, 33, 8, 190)

PLANTED = {
    "as it is": f"INFO asked {QUESTION}",
    "half of it": f"INFO asked {QUESTION[: len(QUESTION) * 4 // 5]}...",
    "repr": f"{QUESTION!r}",
    "JSON": json.dumps({"message": QUESTION}),
    "hex": QUESTION.encode().hex(),
    "base64 in the middle": base64.b64encode(b"+" + QUESTION.encode()).decode(),
    "a message": text_format.MessageToString(pb.QuestionOpen(question=QUESTION)),
    "payload repr": f"sent {BODY!r}",
    "payload part": f"sent {BODY[100:140]!r}",
    "payload hex": BODY.hex()[21:101],
    "payload HEX": BODY.hex().upper(),
    "payload base64": base64.b64encode(BODY).decode(),
    "payload base64 in a file": base64.urlsafe_b64encode(b"hh" + BODY).decode(),
    "payload message": str(pb.PayloadPart(chunk=BODY)),
    "payload numbers": str(list(BODY)),
    "token ids": f"tokens {list(TOKENS)}",
    "token ids of a message": str(pb.TextChunk(token_ids=TOKENS)).replace("token_ids: ", ""),
}


@pytest.mark.parametrize("case", PLANTED)
def test_the_search_finds_what_is_planted(case: str) -> None:
    secrets = Secrets()
    secrets.add_text("question", QUESTION)
    secrets.add_bytes("payload", BODY)
    secrets.add_numbers("token ids", TOKENS)
    log = f"12:00 INFO question answered after 0.3 s\n{PLANTED[case]}\n12:01 INFO draining\n"
    (found,) = secrets.found_in(log)
    assert found.startswith(("question", "payload", "token ids"))
    assert secrets.found_in("12:00 INFO question answered after 0.3 s, from camera-1") == []


def test_the_search_finds_nothing_where_there_is_nothing() -> None:
    secrets = Secrets()
    assert secrets.found_in("question answered") == []
    for word in ("red", "2", "0" * 100):
        secrets.add_text("answer", word)
    secrets.add_bytes("payload", bytes(500))
    assert secrets.found_in("a red star: 2, digest 00000000000000000000000000000000") == []


@hypothesis.given(st.text(alphabet="qxzjkv", min_size=200, max_size=200))
@hypothesis.settings(max_examples=3)
def test_what_a_property_test_draws_was_not_asked(text: str) -> None:
    before = len(SUITE.secrets)
    convert.question_to_proto(Question("", bytes(16), text))
    assert len(SUITE.secrets) == before


def test_what_is_asked_is_looked_for() -> None:
    text = f"Is the {uuid.uuid4()} in the picture?"
    convert.question_to_proto(Question("", bytes(16), text))
    assert SUITE.secrets.found_in(f"asked {text}")


def test_no_log_of_the_suite_says_what_was_asked_answered_or_sent() -> None:
    assert SUITE.leaks() == []
