"""Two processes, one socket: answers across the split are the model's own."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from aligned_vq.errors import InvalidInput
from benchmarks.harness.processes import CloudProcess
from edge_client import AsyncEdgeClient, EdgeClient
from tests.conftest import IMAGE_SIDE, NUM_TOKENS

QUESTIONS = ("What colour is the star?", "Describe the picture.", "Ist das ein Käfer? 🐞")


def pictures(count: int) -> list[Image.Image]:
    rng = np.random.default_rng(3)
    return [
        Image.fromarray(rng.integers(0, 256, (IMAGE_SIDE + 9, IMAGE_SIDE + 30, 3), np.uint8))
        for _ in range(count)
    ]


def generated(directory: Path, image: Image.Image, question: str, max_tokens: int) -> list[int]:
    """Token ids of transformers' own `generate`, greedy, on the unsplit model."""
    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(directory, use_fast=False)
    content = [{"type": "image"}, {"type": "text", "text": question}]
    prompt = processor.apply_chat_template(
        [{"role": "user", "content": content}], add_generation_prompt=True
    )
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]


def test_raw_coding_gives_the_unsplit_models_tokens(
    identity_cloud: CloudProcess, llava_directory: Path, identity_bundle_directory: Path
) -> None:
    with EdgeClient(identity_cloud.target, identity_bundle_directory) as client:
        for image, question in zip(pictures(3), QUESTIONS, strict=True):
            answer = client.ask(image, question, max_tokens=12)
            assert list(answer.details.token_ids) == generated(llava_directory, image, question, 12)


def test_an_answer_tells_how_it_came_about(cloud: CloudProcess, bundle_directory: Path) -> None:
    with EdgeClient(cloud.target, bundle_directory) as client:
        answer = client.ask(pictures(1)[0], QUESTIONS[0], max_tokens=8)
    details = answer.details
    assert isinstance(answer, str)
    assert details.usage.completion_tokens == len(details.token_ids) <= 8
    assert details.usage.prompt_tokens > NUM_TOKENS
    assert 0 < details.payload_bytes < details.message_bytes == answer.bytes_sent < 400
    assert list(details.edge.stages_ns) == ["preprocess", "prefix", "compress"]
    assert list(details.cloud.stages_ns)[-2:] == ["prefill", "decode"]
    assert 0 < details.first_token_ms <= details.total_ms


def test_streamed_pieces_join_to_the_answer(cloud: CloudProcess, bundle_directory: Path) -> None:
    with EdgeClient(cloud.target, bundle_directory) as client:
        whole = client.ask(pictures(1)[0], QUESTIONS[1], max_tokens=30)
        with client.stream(pictures(1)[0], QUESTIONS[1], max_tokens=30) as stream:
            pieces = list(stream)
        assert "".join(pieces) == whole == stream.answer
        assert len(pieces) > 3


def test_a_follow_up_question_sends_only_the_digest(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    image = pictures(2)[1]
    with EdgeClient(cloud.target, bundle_directory) as client:
        first = client.ask(image, QUESTIONS[0], max_tokens=4)
        second = client.ask(image, QUESTIONS[0], max_tokens=4)
    assert second == first
    assert second.details.payload_bytes == 0
    assert second.details.usage.image_cached
    assert second.bytes_sent < first.bytes_sent


def test_a_forgotten_image_is_sent_again(llava_directory: Path, bundle_directory: Path) -> None:
    first = pictures(1)[0]
    with (
        CloudProcess(bundle_directory, llava_directory, "--image_cache_mib=0") as cloud,
        EdgeClient(cloud.target, bundle_directory) as client,
    ):
        before = client.ask(first, QUESTIONS[0], max_tokens=6)
        held = client._images.pending(first)
        held.record_cached(bytes(16), cloud.target)  # as if the service had forgotten it
        after = client.ask(first, QUESTIONS[0], max_tokens=6)
    assert before == after
    assert after.details.payload_bytes > 0
    assert not after.usage.image_cached


def test_sampling_is_repeatable_with_a_seed(cloud: CloudProcess, bundle_directory: Path) -> None:
    image = pictures(1)[0]
    with EdgeClient(cloud.target, bundle_directory) as client:
        drawn = [
            client.ask(image, "Go on.", max_tokens=12, temperature=2.0, seed=seed)
            for seed in (1, 1, 2)
        ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_the_async_client_gives_the_same_answers(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    async def run() -> tuple[list[str], str]:
        async with AsyncEdgeClient(cloud.target, bundle_directory) as client:
            several = await asyncio.gather(
                *(client.ask(image, QUESTIONS[0], max_tokens=6) for image in pictures(4))
            )
            pieces = [p async for p in client.stream(pictures(1)[0], QUESTIONS[0], max_tokens=6)]
            return [str(answer) for answer in several], "".join(pieces)

    several, streamed = asyncio.run(run())
    with EdgeClient(cloud.target, bundle_directory) as client:
        expected = [client.ask(image, QUESTIONS[0], max_tokens=6) for image in pictures(4)]
    assert several == expected
    assert streamed == expected[0]


def test_every_quality_is_answered_and_fewer_stages_cost_fewer_bytes(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    image = pictures(1)[0]
    with EdgeClient(cloud.target, bundle_directory) as client:
        sizes = {}
        for quality in ("adaptive", "fixed", "first"):
            answer = client.ask(image, QUESTIONS[0], max_tokens=4, quality=quality)
            assert not answer.usage.image_cached  # another quality is another payload
            sizes[quality] = answer.details.payload_bytes
            assert sizes[quality] == len(client.compress(image, quality=quality).payload.body)
        assert sizes["first"] < sizes["adaptive"] < sizes["fixed"]
        assert client.ask(image, QUESTIONS[0], max_tokens=4, quality="first").usage.image_cached
        with pytest.raises(InvalidInput, match=r"adaptive, fixed, first.*'best'"):
            client.ask(image, QUESTIONS[0], quality="best")
