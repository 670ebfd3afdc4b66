"""Engines behind HTTP that fail: what is asked of another one, and what is not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.engine.replicas import ReplicasEngine
from tests.cloud.engine.fake_replica import (
    PROMPT,
    TOKENS,
    FakeReplica,
    Mood,
    request,
    session,
    told,
    until,
)


@pytest.mark.parametrize("mood", ["refuses", "dies", "errs"])
def test_a_question_that_fails_before_its_first_token_is_asked_of_another(
    mood: Mood, fakes: Callable[..., list[FakeReplica]]
) -> None:
    ill, well = fakes(mood, "well")

    async def work(engine: ReplicasEngine) -> None:
        for number in range(2):
            chunks = await told(engine, request(number))
            assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS

    assert session([ill, well], work) == [1]
    assert (len(ill.questions), len(well.questions)) == (1, 2)


def test_an_answer_that_has_begun_goes_on_elsewhere(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    ill, well = fakes("faints", "well")

    async def work(engine: ReplicasEngine) -> None:
        for number in range(2):
            chunks = await told(engine, request(number, Sampling(16, stop=("14",))))
            assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS[:4]
            assert "".join(chunk.text for chunk in chunks) == "<11><12><13><"
            assert chunks[-1].usage is not None
            assert (chunks[-1].usage.prompt_tokens, chunks[-1].usage.completion_tokens) == (4, 4)

    assert session([ill, well], work) == [1]
    (rest,) = [own for own in well.questions if own["token_ids"] != PROMPT]
    assert rest["token_ids"] == PROMPT + TOKENS[:2]
    assert rest["sampling_params"]["max_tokens"] == 14


def test_an_answer_that_broke_off_at_its_last_token_is_whole(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    ill, well = fakes("faints", "well")

    async def work(engine: ReplicasEngine) -> None:
        for number in range(2):
            chunks = await told(engine, request(number, Sampling(2)))
            assert [token for chunk in chunks for token in chunk.token_ids][:2] == TOKENS[:2]
            assert chunks[-1].finish_reason is not None

    assert session([ill, well], work) == [1]
    assert len(well.questions) == 1


def test_a_seeded_answer_that_has_begun_is_never_asked_for_again(
    fakes: Callable[..., list[FakeReplica]],
) -> None:
    replicas = fakes("faints", "faints")

    async def work(engine: ReplicasEngine) -> None:
        chunks: list[TokenChunk] = []

        async def collect() -> None:
            async for chunk in engine.generate(request(sampling=Sampling(16, 0.5, seed=7))):
                chunks.append(chunk)

        with pytest.raises(EngineError, match="a seeded answer had begun"):
            await collect()
        assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS[:2]

    assert session(replicas, work) == []
    assert sum(len(own.questions) for own in replicas) == 1


def test_tries_are_bounded(fakes: Callable[..., list[FakeReplica]]) -> None:
    replicas = fakes("dies", "dies", "dies", "dies")

    async def work(engine: ReplicasEngine) -> None:
        with pytest.raises(EngineError, match="all tries are used up"):
            await told(engine, request())

    assert session(replicas, work) == [1, 1]
    assert sum(len(own.questions) for own in replicas) == 3


def test_a_refused_question_is_not_asked_again(fakes: Callable[..., list[FakeReplica]]) -> None:
    replicas = fakes("well", "well")

    async def work(engine: ReplicasEngine) -> None:
        for own in replicas:
            own.mood = "wrong bundle"
        with pytest.raises(EngineError, match="got status 400"):
            await told(engine, request())
        assert len(engine.replicas) == 2

    assert session(replicas, work) == []


@pytest.mark.parametrize("mood", ["silent", "freezes"])
def test_nobody_waits_for_a_replica_that_went_silent(
    mood: Mood, fakes: Callable[..., list[FakeReplica]]
) -> None:
    silent, well = fakes(mood, "well")

    async def work(engine: ReplicasEngine) -> None:
        asked = [asyncio.create_task(told(engine, request(number))) for number in range(2)]
        await until(lambda: len(silent.questions) == 1)
        silent.health = 503
        async with asyncio.timeout(5):
            for chunks in await asyncio.gather(*asked):
                assert [token for chunk in chunks for token in chunk.token_ids] == TOKENS

    assert session([silent, well], work) == [1]
    assert silent.left.wait(5)
