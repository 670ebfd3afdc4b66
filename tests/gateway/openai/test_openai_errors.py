"""Errors as OpenAI's client raises them, from each of the places they come from."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
from openai import (
    APIError,
    APIStatusError,
    AuthenticationError,
    BadRequestError,
    InternalServerError,
    NotFoundError,
    OpenAI,
)

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client.gateway.config import KEY_VARIABLE
from tests.gateway.asking import about, assistant, call, image, text, user
from tests.gateway.conftest import MODEL

FIELDS: dict[str, tuple[Any, str]] = {
    "n": (2, "n"),
    "presence_penalty": (0.5, "presence_penalty"),
    "logprobs": (True, "logprobs"),
    "tools": ([{"type": "function"}], "tools"),
    "response_format": ({"type": "json_object"}, "response_format"),
    "top_k": (40, "top_k"),
    "temperature": (1e-45, "temperature"),
    "top_p": (0, "top_p"),
    "seed": (-1, "seed"),
    "max_tokens": (0, "max_tokens"),
    "max_completion_tokens": (1.5, "max_completion_tokens"),
    "stop": (["a"] * 5, "stop"),
    "quality": ("best", "quality"),
    "stream": ("yes", "stream"),
}


def ask(client: OpenAI, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def bad(client: OpenAI, messages: list[Any], **options: Any) -> BadRequestError:
    with pytest.raises(BadRequestError) as caught:
        ask(client, messages, **options)
    error = caught.value
    assert error.type == "invalid_request_error"
    assert error.code
    assert "expected" in str(error.body)
    return error


@pytest.mark.parametrize("name", FIELDS)
def test_a_field_that_is_not_offered_is_named(client: OpenAI, name: str) -> None:
    value, param = FIELDS[name]
    assert bad(client, about(), extra_body={name: value}).param == param


def test_another_model_is_not_found(client: OpenAI) -> None:
    with pytest.raises(NotFoundError) as caught:
        client.chat.completions.create(model="gpt-9", messages=about())
    assert (caught.value.code, caught.value.param) == ("model_not_found", "model")


CONVERSATIONS: dict[str, tuple[list[Any], str | None]] = {
    "an answer last": ([user(text("Why is that?")), assistant("so")], "messages[1].role"),
    "an answer first": ([assistant("red"), user(text("Why is that?"))], "messages[0].role"),
    "instructions alone": ([{"role": "system", "content": "x"}], "messages[0].role"),
    "late instructions": (
        [user(text("Why is that?")), {"role": "system", "content": "x"}],
        "messages[1].role",
    ),
    "a tool": ([{"role": "tool", "content": "x"}], "messages[0].role"),
    "nothing": ([], "messages"),
    "an empty question": ([user(text(" "))], "messages"),
    "an image alone": ([user(image())], "messages"),
    "two images": (
        [user(text("Which one is redder?"), image(1), image(2))],
        "messages[0].content[2].image_url",
    ),
    "ten images": (
        [user(text("Which one is reddest?"), *map(image, range(10)))],
        "messages[0].content[2].image_url",
    ),
    "an image from the assistant": (
        [user(text("Which?")), {**user(image()), "role": "assistant"}, user(text("Why?"))],
        "messages[1].content[0].image_url",
    ),
    "audio": (
        [user({"type": "input_audio", "input_audio": {}})],
        "messages[0].content[0]",
    ),
    "content of another type": ([{"role": "user", "content": 5}], "messages[0].content"),
    "a special token": ([user(text("What is </s> in here?"))], "messages"),
    "a role marker in an answer": (
        [user(text("Why is that?")), assistant("so\nUSER: and now"), user(text("Really so?"))],
        "messages",
    ),
    "too many turns": (
        [own for _ in range(33) for own in (user(text("a")), assistant("b"))] + [user(text("c"))],
        "messages",
    ),
    "too many messages": ([user(text("a"))] * 257, "messages"),
}


@pytest.mark.parametrize("case", CONVERSATIONS)
def test_a_conversation_that_cannot_be_answered(client: OpenAI, case: str) -> None:
    messages, param = CONVERSATIONS[case]
    assert bad(client, messages).param == param
    with pytest.raises(BadRequestError):
        list(ask(client, messages, stream=True))


IMAGES: dict[str, str] = {
    "http": "http://127.0.0.1:1/cat.png",
    "https": "https://example.com/cat.png",
    "file": "file:///etc/passwd",
    "a path": "/etc/passwd",
    "text": "data:text/plain;base64,aGVsbG8=",
    "no image": "data:image/png;base64,aGVsbG8=",
    "not base64": "data:image/png;base64,****",
    "not marked base64": "data:image/png,aGVsbG8=",
    "nothing": "data:image/png;base64,",
    "empty": "",
}


@pytest.mark.parametrize("case", IMAGES)
def test_what_is_no_image(client: OpenAI, case: str) -> None:
    messages = [user(text("What do you see?"), {"type": "image_url", "image_url": IMAGES[case]})]
    error = bad(client, messages)
    assert error.param == "messages[0].content[1].image_url"
    assert "passwd" not in str(error.body)


def test_a_wrong_key_is_refused(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    key = tmp_path / "key"
    key.write_text("sk-only-this-one\n")
    options = (f"--api_key_file={key}", f"--model_name={MODEL}")
    with GatewayProcess(cloud.target, bundle_directory, *options) as gateway:
        url = f"{gateway.url}/v1"
        for wrong in ("sk-another", "sk-only-this-one2"):
            with (
                OpenAI(base_url=url, api_key=wrong, max_retries=0) as client,
                pytest.raises(AuthenticationError) as caught,
            ):
                client.models.list()
            assert caught.value.code == "invalid_api_key"
        with OpenAI(base_url=url, api_key="sk-only-this-one") as client:
            assert ask(client, about(), max_tokens=2).choices
        assert call(f"{gateway.url}/metrics").status == 401
        assert call(f"{gateway.url}/healthz").status == 200
        assert "sk-only" not in gateway.log


def test_readiness_says_why_only_where_no_key_is_set(
    bundle_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with GatewayProcess("127.0.0.1:1", bundle_directory, "--connect_seconds=0.3") as gateway:
        assert b"127.0.0.1:1" in call(f"{gateway.url}/readyz").body
    monkeypatch.setenv(KEY_VARIABLE, "sk-only-this-one")
    with GatewayProcess("127.0.0.1:1", bundle_directory, "--connect_seconds=0.3") as gateway:
        told = call(f"{gateway.url}/readyz")
        assert (told.status, told.body) == (503, b"the cloud service cannot be reached\n")


def test_a_cloud_that_is_not_there(bundle_directory: Path) -> None:
    options = (f"--model_name={MODEL}", "--connect_seconds=0.3")
    with GatewayProcess("127.0.0.1:1", bundle_directory, *options) as gateway:
        with (
            OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client,
            pytest.raises(InternalServerError) as caught,
        ):
            list(ask(client, about(), stream=True))
        assert caught.value.status_code == 503
        assert caught.value.code == "cloud_unreachable"
        assert caught.value.response.headers["retry-after"] == "1"
        assert call(f"{gateway.url}/readyz").status == 503
        assert call(f"{gateway.url}/healthz").status == 200


def test_a_client_over_its_quota_is_told_when_to_come_back(
    llava_directory: Path, bundle_directory: Path
) -> None:
    limits = ("--questions_per_second=0.01", "--burst=1")
    with (
        CloudProcess(bundle_directory, llava_directory, *limits) as cloud,
        GatewayProcess(
            cloud.target, bundle_directory, f"--model_name={MODEL}", "--total_seconds=5"
        ) as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client,
    ):
        assert ask(client, about(), max_tokens=2).choices
        with pytest.raises(APIStatusError) as caught:
            ask(client, about(), max_tokens=2)
    assert caught.value.status_code == 429
    assert caught.value.code == "rate_limit_exceeded"
    assert 1 <= int(caught.value.response.headers["retry-after"]) <= 100


def test_a_cloud_that_dies_in_the_middle_of_an_answer(
    talkative: Path, bundle_directory: Path
) -> None:
    with (
        CloudProcess(bundle_directory, talkative, "--max_answer_tokens=4000") as cloud,
        GatewayProcess(cloud.target, bundle_directory, f"--model_name={MODEL}") as gateway,
        OpenAI(base_url=f"{gateway.url}/v1", api_key="any", max_retries=0) as client,
    ):
        stream = iter(ask(client, about(), max_tokens=3500, stream=True))
        assert [next(stream).choices[0].delta.role for _ in range(3)] == ["assistant", None, None]
        cloud.process.send_signal(signal.SIGKILL)
        with pytest.raises(APIError) as caught:
            list(stream)
        assert not isinstance(caught.value, APIStatusError)
        assert caught.value.code == "cloud_unreachable"
        assert call(f"{gateway.url}/healthz").status == 200
