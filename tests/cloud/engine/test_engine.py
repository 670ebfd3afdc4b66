"""The default engine: every answer equals the one that its request gets alone."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from tests.conftest import NUM_TOKENS

IMAGE, PATCHES = 4, NUM_TOKENS - 1
TOKENS = 24


@pytest.fixture
def engine(llava: Any, tokenizer: Any) -> Iterator[TransformersEngine]:
    made = TransformersEngine(llava, tokenizer, EngineCapacity(5, 5 * 128, 1 << 20))
    yield made
    asyncio.run(made.close())


def image(number: int) -> Tensor:
    return torch.randn(PATCHES, 32, generator=torch.Generator().manual_seed(number))


def prompt(number: int) -> list[int]:
    """A prompt whose length depends on the number, with the image at the same position."""
    question = torch.randint(10, 500, (1 + 3 * (number % 4),), generator=seeded(number)).tolist()
    return [1, 20, *[IMAGE] * PATCHES, *question]


def seeded(number: int) -> torch.Generator:
    return torch.Generator().manual_seed(number)


def request(number: int, sampling: Sampling | None = None, key: bool = True) -> EngineRequest:
    image_number = number % 3
    tokens = 4 + number % 5 * 5
    return EngineRequest(
        f"request-{number}",
        prompt(number),
        image(image_number),
        sampling or Sampling(max_tokens=tokens),
        bytes([image_number]) if key else b"",
    )


def alone(llava: Any, item: EngineRequest) -> list[int]:
    """The token ids that transformers' `generate` answers."""
    ids = torch.tensor([list(item.prompt_ids)])
    embeds = llava.get_input_embeddings()(ids)
    embeds[ids == IMAGE] = item.image
    found = llava.generate(
        inputs_embeds=embeds, max_new_tokens=item.sampling.max_tokens, do_sample=False
    )
    answer: list[int] = found[0].tolist()
    return answer


async def collect(chunks: AsyncIterator[TokenChunk]) -> list[TokenChunk]:
    return [chunk async for chunk in chunks]


def ids(chunks: list[TokenChunk]) -> list[int]:
    return [token for chunk in chunks for token in chunk.token_ids]


@pytest.mark.parametrize("key", [True, False], ids=["images held", "images not held"])
def test_answers_that_join_and_leave_the_batch_equal_those_of_generate(
    engine: TransformersEngine, llava: Any, key: bool
) -> None:
    requests = [request(number, key=key) for number in range(14)]

    async def late(number: int, item: EngineRequest) -> list[TokenChunk]:
        await asyncio.sleep(0.01 * (number % 4))
        return await collect(engine.generate(item))

    async def ask() -> list[list[TokenChunk]]:
        return await asyncio.gather(*(late(n, item) for n, item in enumerate(requests)))

    for item, chunks in zip(requests, asyncio.run(ask()), strict=True):
        assert ids(chunks) == alone(llava, item), item.request_id
        last = chunks[-1]
        assert last.usage is not None
        assert last.usage.prompt_tokens == len(item.prompt_ids)
        assert last.usage.completion_tokens == len(ids(chunks)) <= item.sampling.max_tokens
        assert last.finish_reason == ("stop" if ids(chunks)[-1] == 2 else "length")


def test_sampling_is_repeatable_beside_other_requests(engine: TransformersEngine) -> None:
    sampled = request(1, Sampling(max_tokens=TOKENS, temperature=1.5, top_p=0.9, seed=7))
    other = request(2, Sampling(max_tokens=TOKENS, temperature=1.5, seed=8))

    async def ask() -> tuple[list[int], list[int]]:
        single = ids(await collect(engine.generate(sampled)))
        together = await asyncio.gather(
            *(collect(engine.generate(item)) for item in (other, sampled, request(3)))
        )
        return single, ids(together[1])

    single, beside = asyncio.run(ask())
    assert single == beside
    assert len(set(single)) > 3


def test_an_answer_ends_before_a_stop_text(engine: TransformersEngine) -> None:
    plain = asyncio.run(collect(engine.generate(request(1, Sampling(max_tokens=TOKENS)))))
    text = "".join(chunk.text for chunk in plain)
    word = text.split()[2]
    item = request(1, Sampling(max_tokens=TOKENS, stop=("never said", word)))
    chunks = asyncio.run(collect(engine.generate(item)))
    assert "".join(chunk.text for chunk in chunks) == text[: text.index(word)]
    assert chunks[-1].finish_reason == "stop"
    assert ids(plain)[: len(ids(chunks))] == ids(chunks)
    assert len(ids(chunks)) < TOKENS


def test_an_aborted_answer_ends_and_the_others_continue(
    engine: TransformersEngine, llava: Any
) -> None:
    long, other = request(1, Sampling(max_tokens=100)), request(2)

    async def ask() -> tuple[list[TokenChunk], list[TokenChunk]]:
        running = asyncio.create_task(collect(engine.generate(other)))
        chunks = []
        async for chunk in engine.generate(long):
            chunks.append(chunk)
            await engine.abort(long.request_id)
        return chunks, await running

    stopped, finished = asyncio.run(ask())
    assert stopped[-1].finish_reason in ("cancelled", "stop")
    assert len(ids(stopped)) < 100
    assert ids(finished) == alone(llava, other)


def test_requests_wait_for_room_and_one_that_never_fits_is_refused(
    engine: TransformersEngine, llava: Any
) -> None:
    requests = [request(number, Sampling(max_tokens=60)) for number in range(9)]

    async def ask() -> list[list[TokenChunk]]:
        return await asyncio.gather(*(collect(engine.generate(item)) for item in requests))

    for item, chunks in zip(requests, asyncio.run(ask()), strict=True):
        assert ids(chunks) == alone(llava, item)
    with pytest.raises(EngineError, match=r"at most 640 tokens.*shorter answer"):
        asyncio.run(collect(engine.generate(request(1, Sampling(max_tokens=640)))))


def test_a_failure_ends_only_its_answers_and_the_engine_continues(
    engine: TransformersEngine, llava: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = EngineRequest("bad", [1, IMAGE, 9], image(0), Sampling(max_tokens=4))
    with pytest.raises(EngineError, match="from the language model, got ValueError"):
        asyncio.run(collect(engine.generate(bad)))
    step = engine._batch.step

    def broken(tokens: list[int]) -> Tensor:
        monkeypatch.setattr(engine._batch, "step", step)
        raise RuntimeError("out of memory")

    monkeypatch.setattr(engine._batch, "step", broken)
    with pytest.raises(EngineError, match="RuntimeError"):
        asyncio.run(collect(engine.generate(request(1))))
    assert engine.healthy
    item = request(4)
    assert ids(asyncio.run(collect(engine.generate(item)))) == alone(llava, item)


def test_a_closed_engine_refuses_requests(llava: Any, tokenizer: Any) -> None:
    engine = TransformersEngine(llava, tokenizer, EngineCapacity(2, 512, 0))
    asyncio.run(engine.close())
    assert not engine.healthy
    with pytest.raises(EngineError, match="another replica"):
        asyncio.run(collect(engine.generate(request(1))))


def test_memory_is_bounded_and_released(engine: TransformersEngine) -> None:
    async def ask() -> None:
        await asyncio.gather(*(collect(engine.generate(request(n))) for n in range(12)))

    asyncio.run(ask())
    cache = engine._batch._cache
    deadline = time.monotonic() + 30

    def held() -> bool:
        return cache.num_rows > 0 or any(layer.is_initialized for layer in cache.slots)

    while held() and time.monotonic() < deadline:  # released once the engine was idle for a while
        time.sleep(0.01)
    assert not held()
