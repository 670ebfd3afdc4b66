"""The format of log lines, and what they must never contain."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from aligned_vq.answers import Sampling, Timings, TokenChunk
from aligned_vq.errors import EngineError
from aligned_vq.telemetry import logs
from aligned_vq.telemetry.log_limit import FIRST, LimitedHandler
from aligned_vq.telemetry.logs import JsonFormatter, TextFormatter
from aligned_vq.types import Encoded, Payload, StageIndices
from cloud_server.app import CloudServer
from cloud_server.config import CloudConfig
from cloud_server.decode.image_decoder import EngineImage
from cloud_server.engine.base import EngineRequest
from cloud_server.model import load_cloud_model
from edge_client import AsyncEdgeClient
from protos.messages import Question
from tests.e2e.raw import GOOD_QUESTION, picture
from tests.privacy import Secrets

WORDS = "a quetzalcoatl over Wolverhampton"
FORGED = f"camera-1\n2026-01-01 INFO root all is well\r\x1b[2Jred\u2028{WORDS}"


@pytest.fixture
def lines() -> Iterator[Any]:
    """A separate logger: `form` sets its format, and a call returns the lines that it wrote."""
    written = io.StringIO()
    handler = logging.StreamHandler(written)
    logger = logging.getLogger("test.logs")
    logger.addHandler(handler)
    logger.propagate = False  # errors that are logged here are intended

    class Lines:
        log = logger

        def form(self, name: str) -> None:
            handler.setFormatter(JsonFormatter() if name == "json" else TextFormatter())

        def __call__(self) -> list[str]:
            return written.getvalue().splitlines()

    yield Lines()
    logger.removeHandler(handler)
    logger.propagate = True


def failing(words: str) -> None:
    try:
        raise KeyError(words)
    except KeyError as error:
        raise ValueError(f"cannot read {words}") from error


@pytest.mark.parametrize("form", logs.FORMATS)
def test_a_name_cannot_forge_a_line(lines: Any, form: str) -> None:
    lines.form(form)
    lines.log.warning("from %s", FORGED)
    (line,) = lines()
    assert line.isprintable()
    assert "\\n2026-01-01" in line


def test_json_has_the_fields_of_the_event(lines: Any) -> None:
    lines.form("json")
    event = {"outcome": "answered", "seconds": 0.25, "identity": FORGED, "message": "another"}
    lines.log.info("question %s", "answered", extra={"event": event, "other": WORDS})
    found = json.loads(lines()[0])
    assert found.pop("time").endswith("Z")
    assert list(found) == ["level", "logger", "message", "outcome", "seconds", "identity"]
    assert found["message"] == "question answered"
    assert found["identity"] == FORGED
    assert (found["level"], found["logger"]) == ("info", "test.logs")


@pytest.mark.parametrize("form", logs.FORMATS)
def test_an_exception_is_logged_by_type_and_place(lines: Any, form: str) -> None:
    lines.form(form)
    try:
        failing(WORDS)
    except ValueError:
        lines.log.exception("a question failed")
    text = "\n".join(lines())
    assert "builtins.KeyError" in text
    assert "builtins.ValueError" in text
    assert "in failing" in text
    assert "quetzalcoatl" not in text
    assert form == "text" or json.loads(text)["exception"].endswith("builtins.ValueError")


def test_messages_of_the_system_and_of_torch_are_logged(lines: Any) -> None:
    lines.form("text")
    for error in (
        OSError(28, "No space left on device"),
        torch.OutOfMemoryError("CUDA out of memory"),
        EngineError(WORDS),
    ):
        lines.log.error("failed", exc_info=error)
    text = "\n".join(lines())
    assert "builtins.OSError: [Errno 28] No space left on device" in text
    assert "torch.OutOfMemoryError: CUDA out of memory" in text
    assert "quetzalcoatl" not in text


def test_an_exception_in_a_thread_is_logged_without_its_message(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    lines.form("text")
    monkeypatch.setattr(logs, "_log", lines.log)
    monkeypatch.setattr(threading, "excepthook", logs._thread_ended)
    thread = threading.Thread(target=failing, args=(WORDS,), name="engine")
    thread.start()
    thread.join()
    assert "the thread engine ended" in lines()[0]
    assert lines()[-1] == "builtins.ValueError"
    assert "quetzalcoatl" not in "".join(lines())
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("form", logs.FORMATS)
def test_asyncio_does_not_show_what_tasks_hold(form: str) -> None:
    record = logging.LogRecord(
        "asyncio", logging.ERROR, "x.py", 1, "Task exception was never retrieved\nfuture: %r",
        (ValueError(WORDS),), None,
    )  # fmt: skip
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    line = formatter.format(record)
    assert "Task exception was never retrieved" in line
    assert "quetzalcoatl" not in line


@pytest.mark.parametrize("form", ["text", "json"])
def test_grpc_shows_neither_headers_nor_paths(form: str) -> None:
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    for words, arguments in (
        ("Invalid encoding on %s", (WORDS,)),
        (f"Unexpected [KeyError] raised by servicer method [/{WORDS}]", ()),
    ):
        record = logging.LogRecord("grpc._cython.cygrpc", 40, "", 0, words, arguments, None)
        line = formatter.format(record)
        assert WORDS not in line
        assert words.partition(" ")[0] in line


def test_lines_of_grpc_are_limited_as_one_kind() -> None:
    written = io.StringIO()
    handler = LimitedHandler(written)
    handler.setFormatter(TextFormatter())
    for number in range(100):
        words = f"Unexpected [KeyError] raised by servicer method [/{WORDS}{number}]"
        handler.emit(logging.LogRecord("grpc._cython.cygrpc", 40, "", 0, words, (), None))
    handler.close()
    assert len(written.getvalue().splitlines()) == FIRST + 1
    assert f"{100 - FIRST} more" in written.getvalue()
    assert WORDS not in written.getvalue()


def test_no_repr_contains_a_question_an_answer_or_a_payload() -> None:
    body, digest = WORDS.encode(), b"0123456789abcdef"
    tokens = (40_111, 40_222)
    values = np.array([[40_111], [40_222]], np.int32)
    embeds = torch.full((2, 3), 40_111.0)
    for shown in (
        Payload(bytes(16), 2, 1, 0, "fixed", body, 7),
        Question("id", bytes(16), WORDS, Sampling(), digest),
        TokenChunk(WORDS, tokens, "stop", timings=Timings({"decode": 1})),
        EngineRequest("id", tokens, embeds, Sampling(), digest),
        StageIndices(values, np.array([True, True])),
        Encoded(2, (StageIndices(values),), values.astype(np.float16), values.astype(np.float32)),
        EngineImage(embeds, Timings()),
    ):
        for text in (repr(shown), str(shown), f"{[shown]}"):
            assert "quetzalcoatl" not in text
            assert "401" not in text
            assert "True" not in text
            assert repr(digest)[2:-1] not in text


def test_asyncios_debug_mode_and_a_bug_log_no_user_data(
    llava_directory: Path, bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In asyncio's debug mode every slow callback is logged with its arguments."""
    question = f"What is {WORDS}?"
    secrets, written = Secrets(), io.StringIO()
    secrets.add_text("question", question)
    handler = logging.StreamHandler(written)
    model = load_cloud_model(CloudConfig(bundle_directory, str(llava_directory)))

    async def run() -> None:
        server = CloudServer(model, CloudConfig(bundle_directory, str(llava_directory), port=0))
        build = server.service._parts.prompts.build

        def breaking(text: str, *history: Any, **options: Any) -> list[int]:
            if text == question:
                raise ValueError(f"cannot tokenise {text}")
            return build(text, *history, **options)

        monkeypatch.setattr(server.service._parts.prompts, "build", breaking)
        port = await server.start()
        asyncio.get_running_loop().slow_callback_duration = 0
        async with AsyncEdgeClient(f"127.0.0.1:{port}", bundle_directory) as client:
            stream = client.stream(picture(), GOOD_QUESTION, max_tokens=40)
            secrets.add_text("answer", "".join([piece async for piece in stream]))
            encoded = client._client.compress(picture())
            secrets.add_bytes("payload", encoded.payload.body)
            with pytest.raises(EngineError, match="its log says why"):
                await client.ask(picture(), question)
        await server.stop()

    for form in (JsonFormatter(), TextFormatter()):
        handler.setFormatter(form)
        logging.getLogger().addHandler(handler)
        try:
            asyncio.run(run(), debug=True)
        finally:
            logging.getLogger().removeHandler(handler)
    log = written.getvalue()
    assert log.count("Executing <") > 50
    assert log.count("a question failed") == 2
    assert log.count("builtins.ValueError") == 2
    assert len(secrets) > 3
    assert secrets.found_in(log) == []
