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
    """As transformers' own processor makes them."""
    _, processor = transformers_model()
    images = document["images"] or None
    content = [{"type": "image"}] * bool(images) + [{"type": "text", "text": document["question"]}]
    turn = [{"role": "user", "content": content}]
    prompt = processor.apply_chat_template(turn, add_generation_prompt=True)
    return processor(images=images, text=prompt + answer, return_tensors="pt")


def greedy(document: dict[str, Any]) -> str:
    llava, processor = transformers_model()
    asked = inputs(document)
    whole = llava.generate(**asked, max_new_tokens=16, do_sample=False)
    text: str = processor.decode(whole[0, asked["input_ids"].shape[1] :], skip_special_tokens=True)
    return text.strip()


def share(answers: list[str]) -> float:
    """What the task's score has to be."""
    expected = [own["answer"] for own in documents()]
    return sum(map(str.__eq__, answers, expected)) / len(expected)


def test_unsplit_answers_are_those_of_transformers(unsplit: Evaluated) -> None:
    answers = unsplit.answers("world")
    assert answers == [greedy(own) for own in documents()]
    assert unsplit.scores["world"]["exact_match,none"] == share(answers) > 0.7
    assert unsplit.bytes_of("world") == [None] * len(answers)
    counts = [own["token_counts"][0] for own in unsplit.samples["world"]]
    assert [own["input_tokens"] for own in counts] == [
        inputs(own)["input_ids"].shape[1] for own in documents()
    ]


def test_choices_are_those_of_the_least_loss(unsplit: Evaluated) -> None:
    llava, _ = transformers_model()
    rows = unsplit.samples["world_choices"]
    assert len(rows) > 2
    right = []
    for document, row in zip(colour_documents(), rows, strict=True):
        start = inputs(document)["input_ids"].shape[1]
        losses = []
        for colour in COLOURS:
            asked = inputs(document, f" {colour}")
            with torch.inference_mode():
                shares = llava(**asked).logits[0].log_softmax(-1)
            own = asked["input_ids"][0, start:]
            losses.append(-sum(float(shares[start - 1 + n, token]) for n, token in enumerate(own)))
        found, flags = zip(*row["filtered_resps"], strict=True)
        assert [float(own) for own in found] == pytest.approx(losses, abs=1e-3)
        best = COLOURS[losses.index(min(losses))]
        assert flags == tuple(str(colour == best == greedy(document)) for colour in COLOURS)
        right.append(best == document["answer"])
    assert unsplit.scores["world_choices"]["acc,none"] == sum(right) / len(right)


def test_split_answers_are_those_of_the_client(split: Evaluated, service: CloudProcess) -> None:
    with EdgeClient(service.target, BUNDLE) as client:
        told = [client.ask(own["images"][0], own["question"]).strip() for own in documents()]
        described = [client.ask(own["images"][0], DESCRIBE).strip() for own in documents()[:2]]
    answers = split.answers("world")
    assert answers == told
    assert split.scores["world"]["exact_match,none"] == share(answers) > 0.7
    rounds = [[own.strip() for own in both] for both in split.answers("world_rounds")]
    assert rounds == [list(both) for both in zip(told[:2], described, strict=True)]


def test_the_pair_answers_as_the_process_does(split: Evaluated, pair: Evaluated) -> None:
    for task, score in (("world", "exact_match"), ("world_rounds", "first_round")):
        assert pair.answers(task) == split.answers(task)
        assert pair.scores[task][f"{score},none"] == split.scores[task][f"{score},none"]
        counts = [own["token_counts"] for own in pair.samples[task]]
        assert counts == [own["token_counts"] for own in split.samples[task]]


def test_every_question_pays_for_its_picture(split: Evaluated, pair: Evaluated) -> None:
    encoder = EdgeEncoder(BUNDLE)
    costs = [encoder.payload_bytes(own["images"][0])["medium"] for own in documents()]
    assert split.bytes_of("world") == pair.bytes_of("world") == costs
    assert split.bytes_of("world_rounds") == [costs[0]] * 2 + [costs[1]] * 2
    sent = pair.bytes_of("world", "message_bytes")
    assert all(cost < own < cost + 400 for cost, own in zip(costs, sent, strict=True))
    assert "message_bytes" not in split.bytes_log[0]


def test_questions_without_pictures_ask_the_language_model(
    unsplit: Evaluated, split: Evaluated, pair: Evaluated
) -> None:
    expected = [greedy(own | {"images": []}) for own in documents()[:3]]
    for run in (unsplit, split, pair):
        assert run.answers("world_text") == expected
        assert run.bytes_of("world_text") == [0, 0, 0]


def test_an_operating_point_is_chosen_by_name(evaluate: Evaluate) -> None:
    low = evaluate("world", "checkpoint=reference,bundle=reference,point=low", "--limit=3")
    encoder = EdgeEncoder(BUNDLE)
    costs = [encoder.payload_bytes(own["images"][0])["low"] for own in documents()[:3]]
    assert low.bytes_of("world") == costs


def test_two_pictures_are_refused_by_document(evaluate: Evaluate) -> None:
    run = evaluate("world_pairs", "checkpoint=reference")
    assert "document 0 of world_pairs (test): expected at most one image" in run.output
    assert run.scores == {}


def test_beams_on_the_command_line_are_refused(evaluate: Evaluate) -> None:
    run = evaluate("world", "checkpoint=reference", "--gen_kwargs=num_beams=4")
    assert "expected num_beams=1, got 4" in run.output
    assert run.scores == {}
