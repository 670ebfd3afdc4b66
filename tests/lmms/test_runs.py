"""Whole runs of lmms-eval: unsplit, split in this process, and across an edge and a cloud."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration

from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient
from edge_client.encoder import EdgeEncoder
from tests.lmms.conftest import Evaluate, Evaluated
from tests.lmms.world import COLOURS, DESCRIBE, colour_documents, documents

ANSWERED = "world,world_text,world_rounds"


@pytest.fixture(scope="module")
def unsplit(evaluate: Evaluate) -> Evaluated:
    names = f"{ANSWERED},world_choices"
    return evaluate(names, "checkpoint=reference", "--batch_size=4")


@pytest.fixture(scope="module")
def split(evaluate: Evaluate) -> Evaluated:
    return evaluate(ANSWERED, "checkpoint=reference,bundle=reference,device=cpu")


@pytest.fixture(scope="module")
def pair(evaluate: Evaluate, service: CloudProcess) -> Evaluated:
    model_args = f"target={service.target},bundle={BUNDLE},total_seconds=60"
    return evaluate(ANSWERED, model_args, "--batch_size=auto", "--max_batch_size=3")


@cache
def transformers_model() -> tuple[Any, Any]:
    llava = LlavaForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    return llava, AutoProcessor.from_pretrained(CHECKPOINT, use_fast=False)


def inputs(document: dict[str, Any], answer: str = "") -> Any:
    """The model's inputs, as transformers' processor makes them."""
    _, processor = transformers_model()
    images = document["images"] or None
    content = [{"type": "image"}] * bool(images) + [{"type": "text", "text": document["question"]}]
    turn = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    return processor(images=images, text=prompt + answer, return_tensors="pt")


def greedy(document: dict[str, Any]) -> str:
    llava, processor = transformers_model()
    tensors = inputs(document)
    generated = llava.generate(**tensors, max_new_tokens=16, do_sample=False)
    text: str = processor.decode(
        generated[0, tensors["input_ids"].shape[1] :], skip_special_tokens=True
    )
    return text.strip()


def share(answers: list[str]) -> float:
    """The score that the task has to report."""
    expected = [document["answer"] for document in documents()]
    return sum(map(str.__eq__, answers, expected)) / len(expected)


def test_unsplit_answers_are_those_of_transformers(unsplit: Evaluated) -> None:
    answers = unsplit.answers("world")
    assert answers == [greedy(document) for document in documents()]
    assert unsplit.scores["world"]["exact_match,none"] == share(answers) > 0.7
    assert unsplit.bytes_of("world") == [None] * len(answers)
    counts = [sample["token_counts"][0] for sample in unsplit.samples["world"]]
    assert [count["input_tokens"] for count in counts] == [
        inputs(document)["input_ids"].shape[1] for document in documents()
    ]


def test_choices_have_the_lowest_loss(unsplit: Evaluated) -> None:
    llava, _ = transformers_model()
    rows = unsplit.samples["world_choices"]
    assert len(rows) > 2
    right = []
    for document, row in zip(colour_documents(), rows, strict=True):
        start = inputs(document)["input_ids"].shape[1]
        losses = []
        for colour in COLOURS:
            tensors = inputs(document, f" {colour}")
            with torch.inference_mode():
                shares = llava(**tensors).logits[0].log_softmax(-1)
            tokens = tensors["input_ids"][0, start:]
            losses.append(
                -sum(float(shares[start - 1 + n, token]) for n, token in enumerate(tokens))
            )
        found, flags = zip(*row["filtered_resps"], strict=True)
        assert [float(value) for value in found] == pytest.approx(losses, abs=1e-3)
        best = COLOURS[losses.index(min(losses))]
        assert flags == tuple(str(colour == best == greedy(document)) for colour in COLOURS)
        right.append(best == document["answer"])
    assert unsplit.scores["world_choices"]["acc,none"] == sum(right) / len(right)


def test_split_answers_are_those_of_the_client(split: Evaluated, service: CloudProcess) -> None:
    with EdgeClient(service.target, BUNDLE) as client:
        expected = [
            client.ask(document["images"][0], document["question"]).strip()
            for document in documents()
        ]
        described = [
            client.ask(document["images"][0], DESCRIBE).strip() for document in documents()[:2]
        ]
    answers = split.answers("world")
    assert answers == expected
    assert split.scores["world"]["exact_match,none"] == share(answers) > 0.7
    rounds = [[answer.strip() for answer in both] for both in split.answers("world_rounds")]
    assert rounds == [list(both) for both in zip(expected[:2], described, strict=True)]


def test_edge_and_cloud_answer_as_the_split_model_in_one_process(
    split: Evaluated, pair: Evaluated
) -> None:
    for task, score in (("world", "exact_match"), ("world_rounds", "first_round")):
        assert pair.answers(task) == split.answers(task)
        assert pair.scores[task][f"{score},none"] == split.scores[task][f"{score},none"]
        counts = [sample["token_counts"] for sample in pair.samples[task]]
        assert counts == [sample["token_counts"] for sample in split.samples[task]]


def test_the_bytes_of_every_question_include_its_image(split: Evaluated, pair: Evaluated) -> None:
    encoder = EdgeEncoder(BUNDLE)
    costs = [encoder.payload_bytes(document["images"][0])["medium"] for document in documents()]
    assert split.bytes_of("world") == pair.bytes_of("world") == costs
    assert split.bytes_of("world_rounds") == [costs[0]] * 2 + [costs[1]] * 2
    sent = pair.bytes_of("world", "message_bytes")
    assert all(cost < size < cost + 400 for cost, size in zip(costs, sent, strict=True))
    assert "message_bytes" not in split.bytes_log[0]


def test_questions_without_images_go_to_the_language_model(
    unsplit: Evaluated, split: Evaluated, pair: Evaluated
) -> None:
    expected = [greedy(document | {"images": []}) for document in documents()[:3]]
    for run in (unsplit, split, pair):
        assert run.answers("world_text") == expected
        assert run.bytes_of("world_text") == [0, 0, 0]


def test_an_operating_point_is_chosen_by_name(evaluate: Evaluate) -> None:
    low = evaluate("world", "checkpoint=reference,bundle=reference,point=low", "--limit=3")
    encoder = EdgeEncoder(BUNDLE)
    costs = [encoder.payload_bytes(document["images"][0])["low"] for document in documents()[:3]]
    assert low.bytes_of("world") == costs


def test_two_images_are_refused_and_the_document_is_named(evaluate: Evaluate) -> None:
    run = evaluate("world_pairs", "checkpoint=reference")
    assert "document 0 of world_pairs (test): expected at most one image" in run.output
    assert run.scores == {}


def test_beams_on_the_command_line_are_refused(evaluate: Evaluate) -> None:
    run = evaluate("world", "checkpoint=reference", "--gen_kwargs=num_beams=4")
    assert "expected num_beams=1, got 4" in run.output
    assert run.scores == {}
