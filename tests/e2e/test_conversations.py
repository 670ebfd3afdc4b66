"""Several turns and questions about no image, across two processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from aligned_vq.errors import InvalidInput
from benchmarks.harness.processes import CloudProcess
from benchmarks.harness.scraped import samples
from edge_client import AsyncEdgeClient, EdgeClient
from protos.alignedvq.v1 import inference_pb2 as pb
from protos.messages import Turn
from tests.cloud.test_conversations import BAD_TEXTS, rendered
from tests.e2e.raw import (
    RawClient,
    Refusal,
    assert_clear,
    opening,
    parts,
    payload_of,
    picture,
)
from tests.privacy import SECRETS

pytestmark = pytest.mark.usefixtures("serves_afterwards")

HISTORY = (Turn("What colour is the star?", "It is red."), Turn("And the circle?", "Blue"))


@pytest.fixture(scope="module")
def client(cloud: CloudProcess, bundle_directory: Path) -> Iterator[EdgeClient]:
    with EdgeClient(cloud.target, bundle_directory) as opened:
        yield opened


def generated(
    directory: Path, image: Image.Image | None, history: tuple[Turn, ...], question: str
) -> list[int]:
    """Ten token ids at most of transformers' own `generate` on the unsplit model."""
    model = LlavaForConditionalGeneration.from_pretrained(directory, dtype=torch.float32)
    processor = AutoProcessor.from_pretrained(directory, use_fast=False)
    prompt = rendered(processor, history, question, image is None)
    inputs = processor(images=image, text=prompt, return_tensors="pt")
    out = model.generate(**inputs, max_new_tokens=10, do_sample=False)
    return [int(token) for token in out[0, inputs["input_ids"].shape[1] :]]


def test_answers_are_the_unsplit_models_own(
    identity_cloud: CloudProcess, llava_directory: Path, identity_bundle_directory: Path
) -> None:
    with EdgeClient(identity_cloud.target, identity_bundle_directory) as client:
        for image in (picture(), None):
            for turns in range(3):
                history = HISTORY[:turns]
                answer = client.ask(image, "How many?", history, max_tokens=10)
                expected = generated(llava_directory, image, history, "How many?")
                assert list(answer.details.token_ids) == expected


def test_a_conversation_about_one_image_sends_it_once(client: EdgeClient) -> None:
    image = picture(11)
    history: list[tuple[str, str]] = []
    sent = []
    for question in ("What is it?", "Is it red?", "Where is it?"):
        answer = client.ask(image, question, history, max_tokens=4)
        history.append((question, " ".join(str(answer).split()) or "?"))
        sent.append(answer.details)
    assert sent[0].payload_bytes > 0
    for details in sent[1:]:
        assert details.payload_bytes == 0
        assert details.usage.image_cached
        texts = sum(len(text.encode()) + 2 for turn in history for text in turn)
        assert details.message_bytes < texts + 80  # two digests, a request id and the texts


def test_compressing_between_questions_does_not_send_the_image_again(client: EdgeClient) -> None:
    image = picture(12)
    client.ask(image, "What is it?", max_tokens=2)
    assert client.compress(image).payload.body
    assert client.ask(image, "Why?", max_tokens=2).details.payload_bytes == 0


def test_a_question_about_no_image_sends_none(client: EdgeClient) -> None:
    answer = client.ask(None, "What is a star?", max_tokens=6)
    details = answer.details
    assert details.payload_bytes == 0
    assert details.message_bytes < 80
    assert not details.usage.image_cached
    assert details.usage.prompt_tokens < 16  # hence none of the image's
    assert list(details.cloud.stages_ns) == ["wait", "prefill", "decode"]
    assert details.edge.stages_ns == {}


def test_the_async_client_has_the_same_verbs(cloud: CloudProcess, bundle_directory: Path) -> None:
    async def ask() -> tuple[str, str, str | None]:
        async with AsyncEdgeClient(cloud.target, bundle_directory) as client:
            whole = await client.ask(None, "Why?", HISTORY, max_tokens=8)
            stream = client.stream(None, "Why?", HISTORY, max_tokens=8)
            pieces = [piece async for piece in stream]
            return whole, "".join(pieces), stream.answer

    whole, joined, answer = asyncio.run(ask())
    assert whole == joined == answer


def test_metrics_count_questions_about_no_image(
    cloud: CloudProcess, bundle_directory: Path
) -> None:
    def counted() -> Counter[str]:
        found = samples(cloud.http)
        sources = ("none", "decoded", "held")
        return Counter({own: int(found.get(("avq_images_total", own), 0)) for own in sources})

    before, new = counted(), picture(977)  # an image that no other test sends
    with EdgeClient(cloud.target, bundle_directory) as client:
        for image in (None, new, new, None):
            client.ask(image, "Why?", max_tokens=2)
    assert counted() - before == {"none": 2, "decoded": 1, "held": 1}


@pytest.mark.parametrize("case", BAD_TEXTS)
def test_the_service_checks_earlier_texts_for_itself(
    raw: RawClient, client: EdgeClient, digest: bytes, case: str
) -> None:
    text, words = BAD_TEXTS[case]
    for turn in (Turn(text, "red"), Turn("why?", text)):
        message = opening(digest)
        message.open.turns.add(question=turn.question, answer=turn.answer)
        for text_only in (False, True):
            message.open.text_only = text_only
            assert words in refused(raw, message).words
        with pytest.raises(InvalidInput, match="of the conversation") as caught:
            client.ask(picture(), "And?", [turn], max_tokens=2)
        assert_clear(str(caught.value))


def test_too_many_turns_too_long_ones_and_answers_without_a_question(
    raw: RawClient, digest: bytes
) -> None:
    many, long, empty = opening(digest), opening(digest), opening(digest)
    for _ in range(5_000):
        many.open.turns.add(question="x")
    long.open.turns.add(question="x", answer="y" * 16_000)
    empty.open.turns.add(answer="an answer")
    assert "at most 32 turns" in refused(raw, many).words
    assert "at most 16000 characters" in refused(raw, long).words
    assert "got an empty one" in refused(raw, empty).words


def test_a_conversation_larger_than_a_message_may_be(client: EdgeClient) -> None:
    with pytest.raises(InvalidInput, match="shorten the question"):
        client.ask(None, "why?", [("x" * 40_000, "y" * 40_000)])


def test_a_text_only_question_takes_no_image(
    raw: RawClient, digest: bytes, bundle_directory: Path
) -> None:
    message = opening(digest)
    message.open.text_only = True
    message.open.image_digest = bytes(16)
    assert "no image digest in a text-only question" in refused(raw, message).words
    message.open.image_digest = b""
    alone = raw.ask([message])
    beside = raw.ask([message, *parts(payload_of(bundle_directory))])  # what nobody asked for
    assert alone == beside


def refused(raw: RawClient, message: pb.AskRequest) -> Refusal:
    for turn in message.open.turns[:40]:
        SECRETS.add_text("turn", turn.question)
        SECRETS.add_text("turn", turn.answer)
    with pytest.raises(Refusal) as caught:
        raw.ask([message])
    assert caught.value.name == "InvalidInput"
    assert_clear(caught.value.words)
    return caught.value


def test_a_forgotten_image_is_sent_again_in_the_middle_of_a_conversation(
    client: EdgeClient,
) -> None:
    image = picture(13)
    before = client.ask(image, "Why?", HISTORY, max_tokens=6)
    held = client._images.pending(image)
    held.record_cached(bytes(16), held.service_target)  # as if the service had forgotten it
    after = client.ask(image, "Why?", HISTORY, max_tokens=6)
    assert before == after
    assert after.details.payload_bytes > 0
