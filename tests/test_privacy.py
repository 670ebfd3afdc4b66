"""The search of logs detects what is planted, wherever it is planted, and nothing else."""

from __future__ import annotations

import base64
import json
import logging
import sys
import uuid
from collections.abc import Callable, Iterator

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from google.protobuf import text_format

from benchmarks.harness.processes import ServerProcess
from protos import convert
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Question
from tests import commands
from tests.log_search import LogSearch
from tests.privacy import Secrets

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


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> Iterator[LogSearch]:
    """A search apart from the session's, with one question to look for."""
    monkeypatch.setattr(commands, "STDERR", [])
    secrets = Secrets()
    secrets.add_text("question", QUESTION)
    searching = LogSearch(secrets)
    with searching.recording():
        yield searching


def in_this_process(search: LogSearch) -> None:
    with search.listening():
        logging.getLogger("tests.planted").debug("asked %s", QUESTION)


def in_a_command(search: LogSearch) -> None:
    commands.run([sys.executable, "-c", f"import sys; print({QUESTION!r}, file=sys.stderr)"])


def in_a_server(search: LogSearch) -> None:
    with ServerProcess("tests.loud_server", QUESTION):
        pass


@pytest.mark.parametrize(
    ("plant", "where"),
    [(in_this_process, "this process"), (in_a_command, "commands"), (in_a_server, "server 0")],
)
def test_every_kind_of_log_is_searched(
    search: LogSearch, plant: Callable[[LogSearch], None], where: str
) -> None:
    assert search.new_leaks() == []
    plant(search)
    (leak,) = search.new_leaks()
    assert leak.startswith(f"{where}: question")
    assert search.new_leaks() == []
    assert len(search.all_leaks()) == 1


def test_what_becomes_a_secret_later_is_detected_in_whole_logs(search: LogSearch) -> None:
    text = f"Is the {uuid.uuid4()} in the picture?"
    with search.listening():
        logging.getLogger("tests.planted").debug("asked %s", text)
    assert search.new_leaks() == []
    convert.question_to_proto(Question("", bytes(16), text))
    assert search.new_leaks() == []
    assert search.all_leaks()


def test_levels_and_handlers_are_as_before(search: LogSearch) -> None:
    root = logging.getLogger()
    before = (root.level, list(root.handlers), logging.getLogger("PIL").level)
    with search.listening():
        assert root.level == logging.DEBUG
    assert (root.level, list(root.handlers), logging.getLogger("PIL").level) == before


def test_what_a_property_test_draws_was_not_asked(search: LogSearch) -> None:
    before = len(search.secrets)

    @hypothesis.given(st.text(alphabet="qxzjkv", min_size=200, max_size=200))
    @hypothesis.settings(max_examples=3)
    def drawn(text: str) -> None:
        convert.question_to_proto(Question("", bytes(16), text))

    drawn()
    assert len(search.secrets) == before


@pytest.mark.parametrize("leaks", [0, 1])
def test_a_leak_fails_its_module(pytester: pytest.Pytester, leaks: int) -> None:
    text = f"Is the {uuid.uuid4()} in the picture?"
    logged = text if leaks else "something else"
    pytester.makepyfile(
        f"""
        import logging
        from tests.conftest import log_search, private_logs
        from tests.privacy import SECRETS

        def test_asks(private_logs):
            SECRETS.add_text("question", {text!r})
            logging.getLogger("planted").info("asked %s", {logged!r})
        """
    )
    done = pytester.runpytest_inprocess("-p", "no:cacheprovider")
    done.assert_outcomes(passed=1, errors=leaks)
