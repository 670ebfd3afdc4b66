"""Questions about no image, beside others in one running batch: each as if it were alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from aligned_vq.answers import Sampling, TokenChunk
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.engine.transformers.engine import EngineCapacity, TransformersEngine
from tests.cloud.engine.test_engine import IMAGE, alone, collect, ids, image, request, seeded
from tests.conftest import random_llava


@pytest.fixture(scope="module")
def llava() -> Any:
    model = random_llava()
    model.generation_config.eos_token_id = 2
    return model


@pytest.fixture
def engine(llava: Any, llava_directory: Path) -> Iterator[TransformersEngine]:
    tokenizer = AutoTokenizer.from_pretrained(llava_directory)
    made = TransformersEngine(llava, tokenizer, EngineCapacity(5, 5 * 128, 1 << 20))
    yield made
    asyncio.run(made.close())


def text_only(number: int) -> EngineRequest:
    length = (1, 2, 9, 40)[number % 4]
    prompt = torch.randint(10, 500, (length,), generator=seeded(100 + number)).tolist()
    return EngineRequest(f"text-{number}", prompt, None, Sampling(max_tokens=3 + number % 7))


def generated(llava: Any, own: EngineRequest) -> list[int]:
    """What transformers' own `generate` answers."""
    if own.image is not None:
        return alone(llava, own)
    prompt = torch.tensor([list(own.prompt_ids)])
    found = llava.generate(prompt, max_new_tokens=own.sampling.max_tokens, do_sample=False)
    answer: list[int] = found[0, prompt.shape[1] :].tolist()
    return answer


def test_they_join_and_leave_among_questions_about_images(
    engine: TransformersEngine, llava: Any
) -> None:
    requests = [(request, text_only)[number % 2](number) for number in range(16)]

    async def late(number: int, own: EngineRequest) -> list[TokenChunk]:
        await asyncio.sleep(0.01 * (number % 3))
        return await collect(engine.generate(own))

    async def ask() -> list[list[TokenChunk]]:
        return await asyncio.gather(*(late(n, own) for n, own in enumerate(requests)))

    for own, chunks in zip(requests, asyncio.run(ask()), strict=True):
        assert ids(chunks) == generated(llava, own), own.request_id
        assert chunks[-1].usage is not None
        assert chunks[-1].usage.prompt_tokens == len(own.prompt_ids)


def test_the_first_question_of_all_may_be_one(engine: TransformersEngine, llava: Any) -> None:
    own = text_only(2)
    assert ids(asyncio.run(collect(engine.generate(own)))) == generated(llava, own)


def test_placeholders_and_image_belong_together(engine: TransformersEngine) -> None:
    for prompt, embeds in (([1, IMAGE, 9], None), ([1, 9], image(0))):
        own = EngineRequest("bad", prompt, embeds, Sampling(max_tokens=4))
        with pytest.raises(EngineError, match="from the language model, got ValueError"):
            asyncio.run(collect(engine.generate(own)))
    assert engine.healthy
