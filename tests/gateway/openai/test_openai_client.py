"""OpenAI's own Python client against a gateway: what it gets is what the SDK gets."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from openai import AsyncOpenAI, NotFoundError, OpenAI

from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client import EdgeClient
from tests.gateway.asking import QUESTION, about, assistant, image, image_bytes, text, user
from tests.gateway.conftest import MODEL

EVERY_NEUTRAL_FIELD: dict[str, Any] = {
    "n": 1,
    "presence_penalty": 0,
    "frequency_penalty": 0.0,
    "logit_bias": {},
    "logprobs": False,
    "user": "somebody",
    "tools": [],
    "tool_choice": "none",
    "response_format": {"type": "text"},
    "metadata": {"a": "b"},
    "store": False,
    "parallel_tool_calls": True,
}


@pytest.fixture(scope="module")
def sdk(cloud: CloudProcess, bundle_directory: Path) -> Iterator[EdgeClient]:
    with EdgeClient(cloud.target, bundle_directory) as opened:
        yield opened


def ask(client: OpenAI, messages: list[Any], **options: Any) -> Any:
    return client.chat.completions.create(model=MODEL, messages=messages, **options)


def test_models(client: OpenAI) -> None:
    (model,) = client.models.list()
    assert model.id == MODEL
    assert model.object == "model"
    assert client.models.retrieve(MODEL) == model
    with pytest.raises(NotFoundError) as caught:
        client.models.retrieve("gpt-9/large")
    assert caught.value.code == "model_not_found"


def test_an_answer_is_the_sdks(client: OpenAI, sdk: EdgeClient) -> None:
    expected = sdk.ask(image_bytes(), QUESTION, max_tokens=12)
    found = ask(client, about(), max_tokens=12)
    (choice,) = found.choices
    assert found.object == "chat.completion"
    assert found.model == MODEL
    assert choice.message.role == "assistant"
    assert choice.message.content == expected
    assert choice.finish_reason == expected.details.finish_reason
    assert found.usage.prompt_tokens == expected.usage.prompt_tokens
    assert found.usage.completion_tokens == expected.usage.completion_tokens
    assert found.usage.total_tokens == found.usage.prompt_tokens + found.usage.completion_tokens


def test_an_address_may_be_a_plain_string_and_content_too(client: OpenAI, sdk: EdgeClient) -> None:
    expected = sdk.ask(image_bytes(), QUESTION, max_tokens=6)
    url = image()["image_url"]["url"]
    plain = [user({"type": "image_url", "image_url": url}), {"role": "user", "content": QUESTION}]
    assert ask(client, plain, max_tokens=6).choices[0].message.content == expected


def test_a_stream_is_the_same_answer_in_pieces(client: OpenAI) -> None:
    whole = ask(client, about(), max_completion_tokens=12)
    chunks = list(
        ask(
            client,
            about(),
            max_completion_tokens=12,
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    assert {chunk.object for chunk in chunks} == {"chat.completion.chunk"}
    assert len({chunk.id for chunk in chunks}) == 1
    first, *pieces, last, usage = chunks
    assert (first.choices[0].delta.role, first.choices[0].delta.content) == ("assistant", "")
    joined = "".join(piece.choices[0].delta.content for piece in pieces)
    assert joined == whole.choices[0].message.content
    assert last.choices[0].finish_reason == whole.choices[0].finish_reason
    assert [piece.choices[0].finish_reason for piece in pieces] == [None] * len(pieces)
    assert usage.choices == []
    assert usage.usage == whole.usage
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_usage_is_streamed_only_if_asked_for(client: OpenAI) -> None:
    *_, last = ask(client, about(), max_tokens=3, stream=True)
    assert last.choices[0].finish_reason
    assert last.usage is None


def test_the_async_client_asks_several_at_once(gateway: GatewayProcess, client: OpenAI) -> None:
    expected = [ask(client, about(seed), max_tokens=8) for seed in range(4)]

    async def one(opened: AsyncOpenAI, seed: int) -> str:
        stream = await opened.chat.completions.create(
            model=MODEL, messages=about(seed), max_tokens=8, stream=True
        )
        return "".join([c.choices[0].delta.content or "" async for c in stream])

    async def several() -> list[str]:
        url = f"{gateway.url}/v1"
        async with AsyncOpenAI(base_url=url, api_key="any", max_retries=0) as opened:
            return await asyncio.gather(*(one(opened, seed) for seed in range(4)))

    assert asyncio.run(several()) == [own.choices[0].message.content for own in expected]


def test_a_conversation_sends_its_picture_once(client: OpenAI, sdk: EdgeClient) -> None:
    messages = about(21)
    first = ask(client, messages, max_tokens=4)
    messages += [assistant("red"), user(text("Where is the red star?"))]
    for _ in range(2):  # the second time with the picture repeated
        found = ask(client, messages, max_tokens=6)
        expected = sdk.ask(
            image_bytes(21), "Where is the red star?", [(QUESTION, "red")], max_tokens=6
        )
        assert found.choices[0].message.content == expected
        assert (first.split["image_held"], found.split["image_held"]) == (False, True)
        assert found.split["payload_bytes"] == 0
        messages[-1]["content"].append(image(21))


def test_text_alone_and_instructions(client: OpenAI, sdk: EdgeClient) -> None:
    found = ask(
        client,
        [{"role": "system", "content": "Be very brief."}, user(text("Which colours are there?"))],
        max_tokens=6,
    )
    expected = sdk.ask(None, "Be very brief.\nWhich colours are there?", max_tokens=6)
    assert found.choices[0].message.content == expected
    assert found.split["image"] is None
    assert found.split["quality"] is None


def test_neutral_fields_change_nothing(client: OpenAI) -> None:
    plain = ask(client, about(), max_tokens=6)
    found = ask(client, about(), max_tokens=6, **EVERY_NEUTRAL_FIELD)
    assert found.choices[0].message == plain.choices[0].message


def test_sampling_reaches_the_model(client: OpenAI) -> None:
    drawn = [
        ask(client, about(), max_tokens=12, temperature=2.0, top_p=0.99, seed=seed)
        .choices[0]
        .message.content
        for seed in (1, 1, 2)
    ]
    assert drawn[0] == drawn[1] != drawn[2]
    whole = ask(client, about(), max_tokens=12).choices[0].message.content
    word = whole.split()[2]
    for stop in (word, [word, "never said"]):
        stopped = ask(client, about(), max_tokens=12, stop=stop).choices[0]
        assert stopped.message.content == whole[: whole.index(word)]
        assert stopped.finish_reason == "stop"


def test_quality_chooses_the_operating_point(client: OpenAI) -> None:
    sent = {
        quality: ask(client, about(31), max_tokens=2, extra_body={"quality": quality}).split
        for quality in ("first", "fixed")
    }
    assert sent["first"]["quality"] == "first"
    assert 0 < sent["first"]["payload_bytes"] < sent["fixed"]["payload_bytes"]
