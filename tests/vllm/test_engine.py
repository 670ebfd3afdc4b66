"""The engine over vLLM in this process: the answers of the other engine, and no way to harm it."""

from __future__ import annotations

import asyncio
from itertools import product
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from aligned_vq.answers import Sampling
from aligned_vq.errors import EngineError
from cloud_server.engine.base import EngineRequest
from cloud_server.serving_backends import ServingBackend
from tests.vllm.conftest import QUESTIONS, Run, backend, blank, tokens, told

Images = dict[str, list[Tensor]]


def test_answers_are_those_of_the_transformers_engine(
    run: Run, vllm: ServingBackend, images: Images
) -> None:
    other = backend("transformers")

    async def compare() -> None:
        pairs = list(product(QUESTIONS, zip(*images.values(), strict=True)))
        together = await asyncio.gather(
            *(
                told(vllm, question, indices, f"equal-{number}")
                for number, (question, (indices, _)) in enumerate(pairs)
            )
        )
        for number, (question, (_, embeds)) in enumerate(pairs):
            chunks = together[number]
            expected = await told(other, question, embeds, f"alone-{number}")
            assert tokens(chunks) == tokens(expected)
            assert "".join(c.text for c in chunks) == "".join(c.text for c in expected)
            assert chunks[-1].usage == expected[-1].usage
            assert chunks[-1].finish_reason == expected[-1].finish_reason == "stop"
        await other.engine.close()

    run(compare())


def test_a_question_about_no_image(run: Run, vllm: ServingBackend) -> None:
    other = backend("transformers")

    async def tokens_of(own: ServingBackend, key: bytes) -> list[int]:
        prompt = own.prompts.build(QUESTIONS[1], text_only=True)
        asked = EngineRequest(f"no-image-{key!r}", prompt, None, Sampling(8), key)
        return tokens([chunk async for chunk in own.engine.generate(asked)])

    async def compare() -> None:
        expected = await tokens_of(other, b"")
        assert expected
        for key in (b"", b"mine", b"mine"):
            assert await tokens_of(vllm, key) == expected
        await other.engine.close()

    run(compare())


@pytest.mark.parametrize(
    "image",
    [
        Image.new("RGB", (336, 336)),
        torch.zeros(3, 336, 336, dtype=torch.uint8),
        torch.zeros(3, 336, 336),
        torch.zeros(1, 576, 192),
        torch.zeros(577, 5),
        torch.zeros(577, 5, dtype=torch.int64),
        torch.zeros(100, 5, dtype=torch.int16),
        torch.full((577, 5), 4096, dtype=torch.int16),
        torch.full((577, 5), -2, dtype=torch.int16),
    ],
    ids=str,
)
def test_only_indices_reach_the_engine(run: Run, vllm: ServingBackend, image: Any) -> None:
    with pytest.raises(EngineError, match="ValueError: expected"):
        run(told(vllm, QUESTIONS[0], image, "bad"))
    assert vllm.engine.healthy
    assert tokens(run(told(vllm, QUESTIONS[0], blank(), "good", Sampling(2))))


def test_a_prompt_without_the_images_place_is_refused(run: Run, vllm: ServingBackend) -> None:
    prompt = vllm.prompts.build(QUESTIONS[0])[20:]

    async def ask() -> None:
        asked = EngineRequest("short", prompt, blank(), Sampling(2))
        async for _ in vllm.engine.generate(asked):
            pass

    with pytest.raises(EngineError):
        run(ask())
    assert tokens(run(told(vllm, QUESTIONS[0], blank(), "good", Sampling(2))))


def test_tokens_come_one_by_one_up_to_the_limit(
    run: Run, vllm: ServingBackend, images: Images
) -> None:
    chunks = run(told(vllm, QUESTIONS[0], images["vllm"][0], "limit", Sampling(5)))
    assert chunks[-1].finish_reason == "length"
    assert len(chunks) > 1
    assert len(tokens(chunks)) == 5
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 5


def test_a_stop_text_ends_the_answer_before_it(
    run: Run, vllm: ServingBackend, images: Images
) -> None:
    image = images["vllm"][0]
    whole = "".join(c.text for c in run(told(vllm, QUESTIONS[0], image, "whole")))
    stop = whole[len(whole) // 2 :][:6]
    chunks = run(told(vllm, QUESTIONS[0], image, "stop", Sampling(48, stop=(stop,))))
    assert "".join(c.text for c in chunks) == whole[: whole.index(stop)]
    assert chunks[-1].finish_reason == "stop"


def test_sampling_repeats_with_a_seed(run: Run, vllm: ServingBackend, images: Images) -> None:
    hot = Sampling(24, temperature=2.0, seed=-3)
    first, second = (
        tokens(run(told(vllm, QUESTIONS[0], images["vllm"][0], f"hot-{number}", hot)))
        for number in range(2)
    )
    assert first == second
    greedy = run(told(vllm, QUESTIONS[0], images["vllm"][0], "cold", Sampling(24)))
    assert first != tokens(greedy)


def test_an_aborted_answer_ends_as_cancelled_and_others_go_on(
    run: Run, vllm: ServingBackend, images: Images
) -> None:
    async def both() -> None:
        endless = Sampling(400, temperature=2.0, seed=1)
        asked = vllm.prompts.build(QUESTIONS[0])
        first = EngineRequest("abort-me", asked, images["vllm"][0], endless)
        other = asyncio.create_task(told(vllm, QUESTIONS[0], images["vllm"][1], "other"))
        chunks = []
        async for chunk in vllm.engine.generate(first):
            chunks.append(chunk)
            if len(chunks) == 3:
                await vllm.engine.abort("abort-me")
        assert chunks[-1].finish_reason == "cancelled"
        assert len(tokens(chunks)) < 400
        assert (await other)[-1].finish_reason == "stop"

    run(both())
