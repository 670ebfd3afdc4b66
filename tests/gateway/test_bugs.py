"""A bug in the gateway itself: clients are told of one, the log where it is, and nobody more."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from aligned_vq.images.load import load_image
from benchmarks.harness.processes import CloudProcess, ServerProcess
from edge_client.encoder import EdgeEncoder
from tests.gateway.asking import QUESTION, about, call, data_uri, image_bytes, text, user
from tests.gateway.conftest import MODEL
from tests.privacy import Secrets

CHAT = "/v1/chat/completions"
TOLD = {
    "message": "the gateway failed on this request; its log has the details",
    "type": "server_error",
    "param": None,
    "code": "internal_error",
}


@pytest.fixture(scope="module")
def url(buggy: ServerProcess) -> str:
    return f"http://{buggy.target}"


@pytest.fixture(scope="module")
def buggy(cloud: CloudProcess, bundle_directory: Path) -> Iterator[ServerProcess]:
    options = (f"--target={cloud.target}", f"--bundle={bundle_directory}", "--log_level=debug")
    with ServerProcess(
        "tests.gateway.buggy", "serve", "--port=0", f"--model_name={MODEL}", *options
    ) as process:
        yield process


def test_a_bug_about_a_question(buggy: ServerProcess, url: str) -> None:
    reply = call(url + CHAT, {"model": MODEL, "messages": about()})
    assert (reply.status, reply.error) == (500, TOLD)
    secrets = Secrets()
    secrets.add_text("question", QUESTION)
    assert len(secrets) > 0
    assert "in _ask" in buggy.log
    assert "builtins.ValueError" in buggy.log
    assert secrets.found_in(buggy.log) == []


def test_a_bug_about_an_answer(buggy: ServerProcess, url: str) -> None:
    body = {"model": MODEL, "messages": [user(text("What do you see?"))], "max_tokens": 60}
    streamed = call(url + CHAT, {**body, "stream": True})
    events = [line.removeprefix("data: ") for line in streamed.body.decode().splitlines() if line]
    *chunks, last = map(json.loads, events)
    assert last == {"error": TOLD}
    answer = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks)
    reply = call(url + CHAT, body)
    assert (reply.status, reply.error) == (500, TOLD)
    secrets = Secrets()
    secrets.add_text("answer", answer)
    assert len(secrets) > 0
    assert "in _finish_reason" in buggy.log
    assert "builtins.RuntimeError" in buggy.log
    assert secrets.found_in(buggy.log) == []


def test_a_bug_about_a_payload(buggy: ServerProcess, url: str, bundle_directory: Path) -> None:
    picture = image_bytes(77)
    reply = call(f"{url}/v1/index_map", {"image": data_uri(picture)})
    assert (reply.status, reply.error) == (500, TOLD)
    payload = EdgeEncoder(bundle_directory).encode(load_image(picture)).payload
    secrets = Secrets()
    secrets.add_bytes("payload", payload.body)
    assert len(secrets) > 0
    assert "in _unpack" in buggy.log
    assert "builtins.KeyError" in buggy.log
    assert secrets.found_in(buggy.log) == []


def test_it_goes_on(url: str) -> None:
    assert call(f"{url}/v1/rates", {"image": data_uri(image_bytes(77))}).status == 200
    assert call(f"{url}/healthz").status == 200
