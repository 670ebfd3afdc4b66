"""Engines behind HTTP: turns, joining and leaving, and what they are sent."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch

from aligned_vq.answers import Sampling
from aligned_vq.errors import CloudUnreachable, ConfigError, EngineError
from cloud_server.decode.index_arrays import indices_from_url
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.replicas import ReplicasEngine
from cloud_server.engine.text import StoppedText, StopTexts
from tests.cloud.engine.fake_replica import (
    IMAGE,
    LAYOUT,
    PROMPT,
    TOKENS,
    FakeReplica,
    Mood,
    Tokenizer,
    request,
    session,
    told,
    until,
)


def test_replicas_take_turns_and_get_ids_and_indices(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    replicas = fakes("well", "well")

    async def work(engine: ReplicasEngine) -> None:
        for number in range(4):
            sampling = Sampling(16, temperature=0.5, top_p=0.9, seed=-1)
            chunks = await told(engine, request(number, sampling))
            assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS
            assert "".join(chunk.text for chunk in chunks) == "<11><12><13><14>"
            last = chunks[-1]
            assert last.finish_reason == "stop"
            assert last.usage is not None
            assert (last.usage.prompt_tokens, last.usage.completion_tokens) == (4, 5)
            assert last.timings is not None

    assert session(replicas, work) == []
    assert [len(own.questions) for own in replicas] == [2, 2]
    body = replicas[0].questions[0]
    assert body["token_ids"] == PROMPT
    (part,) = body["content_parts"]
    assert torch.equal(LAYOUT.checked(indices_from_url(part["url"])), IMAGE)
    assert part["uuid"] == body["cache_salt"] == b"k".hex()
    picking = {"max_tokens": 16, "temperature": 0.5, "top_p": 0.9, "seed": 2**63 - 1}
    assert body["sampling_params"] == picking | {"detokenize": False}


def test_an_image_without_a_key_is_not_to_be_found_again(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    (replica,) = fakes("well")

    async def work(engine: ReplicasEngine) -> None:
        await told(engine, request(key=b""))

    session([replica], work)
    assert "cache_salt" not in replica.questions[0]
    assert "uuid" not in replica.questions[0]["content_parts"][0]


def test_without_a_replica_the_engine_is_not_healthy(
    fakes: Callable[..., list[FakeReplica]], caplog: pytest.LogCaptureFixture
) -> None:
    (replica,) = fakes("well")
    replica.health = 503

    async def work(engine: ReplicasEngine) -> None:
        assert not engine.healthy
        assert not engine.lost
        with pytest.raises(CloudUnreachable, match="expected an engine to answer, got none"):
            await told(engine, request())
        replica.health = 200
        await until(lambda: engine.healthy)
        await told(engine, request())
        replica.health = 503
        await until(lambda: not engine.healthy)

    with caplog.at_level(logging.WARNING):
        session([replica], work)
    assert "/health returned status 503" in caplog.text


def test_a_replica_with_another_bundle_never_joins(
    fakes: Callable[..., list[FakeReplica]], caplog: pytest.LogCaptureFixture
) -> None:
    other, well = fakes("wrong bundle", "well")

    async def work(engine: ReplicasEngine) -> None:
        assert len(engine.replicas) == 1
        for number in range(3):
            await told(engine, request(number))

    with caplog.at_level(logging.WARNING):
        session([other, well], work)
    assert other.questions == []
    assert "another manifest" in caplog.text


@pytest.mark.parametrize("mood", ["silent", "endless"])
def test_an_aborted_answer_ends_as_cancelled_and_the_replica_stops(
    mood: Mood, fakes: Callable[..., list[FakeReplica]]
) -> None:
    (replica,) = fakes("well")

    async def work(engine: ReplicasEngine) -> None:
        replica.mood = mood
        replica.left.clear()  # it answered the question with which it joined
        asked = asyncio.create_task(told(engine, request()))
        await until(lambda: len(replica.questions) == 1)
        await asyncio.sleep(0.1)
        await engine.abort("r0")
        async with asyncio.timeout(5):
            assert (await asked)[-1].finish_reason == "cancelled"
        assert await asyncio.to_thread(replica.left.wait, 5)

    session([replica], work)


def test_a_stop_text_ends_the_answer_and_the_replica_stops(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    (replica,) = fakes("well")

    async def work(engine: ReplicasEngine) -> None:
        replica.mood = "endless"
        replica.left.clear()
        chunks = await told(engine, request(sampling=Sampling(99, stop=("2><13",))))
        assert "".join(chunk.text for chunk in chunks) == "<11><1"
        assert chunks[-1].finish_reason == "stop"
        assert await asyncio.to_thread(replica.left.wait, 5)

    session([replica], work)


def test_text_that_cannot_be_made_ends_one_answer(
    fakes: Callable[..., list[FakeReplica]], monkeypatch: pytest.MonkeyPatch
) -> None:
    class PanicException(BaseException):
        """As a tokenizer's in Rust."""

    (replica,) = fakes("well")
    push = StopTexts.push

    async def work(engine: ReplicasEngine) -> None:
        for error in (RuntimeError, StopIteration, PanicException):

            def failing(
                own: StopTexts, *given: Any, error: type[BaseException] = error
            ) -> StoppedText:
                if own._stops == ("bad",):
                    raise error
                return push(own, *given)

            with monkeypatch.context() as patch:
                patch.setattr(StopTexts, "push", failing)
                first, second = await asyncio.gather(
                    told(engine, request(1, Sampling(16, stop=("bad",)))),
                    told(engine, request(2)),
                    return_exceptions=True,
                )
            assert isinstance(first, EngineError)
            assert error.__name__ in str(first)
            assert not isinstance(second, BaseException)
            assert "".join(chunk.text for chunk in second) == "<11><12><13><14>"
        assert engine.healthy

    assert session([replica], work) == []


def test_a_name_with_two_addresses_is_two_replicas(
    fakes: Callable[..., list[FakeReplica]], monkeypatch: pytest.MonkeyPatch
) -> None:
    (replica,) = fakes("well")
    addresses = ["127.0.0.1", "127.0.0.2"]  # nobody listens at the second

    async def work(engine: ReplicasEngine) -> None:
        async def getaddrinfo(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
            assert host == "engines.example"
            return [(2, 1, 6, "", (address, port)) for address in addresses]

        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "getaddrinfo", getaddrinfo)
        blank = EngineRequest("blank", [4], IMAGE, Sampling(2))
        url = f"http://engines.example:{replica.port}"
        own = ReplicasEngine([url], Tokenizer(), LAYOUT, blank)
        own.replicas._interval_seconds = 0.1
        await own.warm_up()
        known = own.replicas._replicas
        assert {address for _, address in known} == set(addresses)
        assert len(own.replicas) == 1
        await told(own, request())
        addresses.remove("127.0.0.1")
        await until(lambda: not own.healthy)
        monkeypatch.undo()
        await own.close()

    session([replica], work)
    assert f"engines.example:{replica.port}" in replica.hosts


@pytest.mark.parametrize(
    ("urls", "words"),
    [
        ([], "got none"),
        (["engine:8000"], "http://host:port"),
        (["http://e/path"], "leave out any path"),
    ],
)
def test_urls_that_cannot_be_used(urls: list[str], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ReplicasEngine(urls, Tokenizer(), LAYOUT, request())
