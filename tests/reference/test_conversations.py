"""Conversations: what is asked, what is taught, and the tokens that the service would see."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from aligned_vq.data.scenes.conversations import conversation, learned_turns
from aligned_vq.data.scenes.exam import exam_conversations
from aligned_vq.data.scenes.patches import NUM_PATCHES
from aligned_vq.data.scenes.questions import DESCRIBE, describe
from aligned_vq.data.scenes.scene import sample_scene, scene_rng
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.llava.packing import (
    IGNORED,
    Packer,
    TextTurn,
    answer_loss,
    packed_logits,
    right_answers,
)
from aligned_vq.reference.blueprint import build_model, build_processor, build_tokenizer

TALK = (
    TextTurn("Describe the picture.", "there is a large red star."),
    TextTurn("What colour is the star?", "green", learned=False),
    TextTurn("How many objects are there?", "1"),
)
ALONE = (
    (TextTurn("How many objects are there?", "3"),),
    (TextTurn("What colour is the star?", "red"),),
)


@pytest.fixture(scope="module")
def processor() -> Any:
    return build_processor(build_tokenizer(corpus_scenes=100))


@pytest.fixture(scope="module")
def packer(processor: Any) -> Packer:
    return Packer(processor, NUM_PATCHES)


def test_a_conversation_asks_different_questions_of_the_kinds_asked_for() -> None:
    described = relations = asked_in_all = 0
    for index in range(100):
        rng = scene_rng("train", index)
        asked = conversation(sample_scene(rng), rng, 6, ("relation",))
        assert len({question.text for question in asked}) == len(asked) <= 6
        asked_in_all += len(asked)
        described += sum(question.kind == DESCRIBE for question in asked)
        relations += sum(question.kind == "relation" for question in asked)
    assert 25 <= described <= 55
    assert relations / asked_in_all > 0.3


def test_a_wrong_answer_is_read_and_not_learned() -> None:
    wrong = turns = 0
    for index in range(200):
        rng = scene_rng("train", index)
        scene = sample_scene(rng)
        asked = conversation(scene, rng, 4)
        taught = learned_turns(asked, scene, rng)
        assert any(turn.learned for turn in taught)
        for question, turn in zip(asked, taught, strict=True):
            assert turn.text == question.text
            assert (turn.answer == question.answer) == turn.learned
            wrong += not turn.learned
            turns += 1
    assert 0.02 < wrong / turns < 0.12


def test_an_exam_is_the_same_every_time_and_begins_where_it_is_told_to() -> None:
    exam = list(exam_conversations(3, 6, "validation"))
    assert [len(image.questions) for image in exam] == [6, 6, 6]
    again = list(exam_conversations(3, 6, "validation"))
    assert [image.questions for image in exam] == [image.questions for image in again]
    later = next(iter(exam_conversations(1, 6, "validation", first=40)))
    assert later.questions not in [image.questions for image in exam]


def test_a_packed_conversation_has_the_tokens_of_the_chat_template(
    processor: Any, packer: Packer
) -> None:
    messages = []
    for number, turn in enumerate(TALK):
        image = [] if number else [{"type": "image"}]
        asked = {"type": "text", "text": turn.text}
        messages.append({"role": "user", "content": [*image, asked]})
        said = [{"type": "text", "text": turn.answer}]
        messages.append({"role": "assistant", "content": said})
    prompt = processor.apply_chat_template(messages)
    expected = processor.tokenizer(prompt)["input_ids"]
    text = packer.pack_conversations([[TALK]])
    place = expected.index(processor.tokenizer.convert_tokens_to_ids(processor.image_token))
    eos = processor.tokenizer.eos_token_id
    assert [*text.ids[0].tolist(), eos] == expected[place + 1 :]
    assert packer.prefix_ids == expected[:place]


def test_labels_are_the_learned_answers_and_their_ends(processor: Any, packer: Packer) -> None:
    text = packer.pack_conversations([[TALK, TALK[2:]]])
    assert text.answers.max() == 3
    for answer, turn in enumerate((TALK[0], TALK[2], TALK[2]), 1):
        labels = text.labels[0][text.answers[0] == answer]
        assert processor.tokenizer.decode(labels.tolist()).strip() == f"{turn.answer}</s>"
    assert ((text.answers > 0) == (text.labels != IGNORED)).all()
    assert text.segments[0].tolist() == sorted(text.segments[0].tolist())
    assert text.segments.max() == 2


@pytest.mark.parametrize("talks", [ALONE, (TALK[2:], TALK)], ids=["questions", "conversations"])
def test_what_is_packed_together_is_computed_as_alone(
    packer: Packer, talks: tuple[tuple[TextTurn, ...], ...]
) -> None:
    tokenizer = build_tokenizer(corpus_scenes=100)
    model = build_model(tokenizer).eval()
    embeds = torch.randn(1, NUM_PATCHES, model.config.text_config.hidden_size)
    with torch.inference_mode():
        text = packer.pack_conversations([talks])
        together = packed_logits(model, packer, embeds, text)
        for number, talk in enumerate(talks, 1):
            own = packer.pack_conversations([[talk]])
            alone = packed_logits(model, packer, embeds, own)
            assert torch.allclose(alone[0], together[text.segments == number], atol=1e-4)


def test_a_question_alone_is_a_conversation_of_one_turn(packer: Packer) -> None:
    questions = packer.pack([[turns[0] for turns in ALONE]])
    for found, expected in zip(questions, packer.pack_conversations([ALONE]), strict=True):
        assert torch.equal(found, expected)


def test_verdicts_and_loss_count_learned_answers(processor: Any, packer: Packer) -> None:
    text = packer.pack_conversations([[TALK, TALK[2:]], [TALK[2:]]])
    logits = 50 * F.one_hot(text.labels.clamp(min=0), len(processor.tokenizer)).float()
    assert right_answers(logits, text) == [[True, True, True], [True]]
    loss, metrics = answer_loss(logits, text)
    assert float(loss) < 1e-6
    assert metrics["answers"] == 1
    last = int((text.answers[0] == 2).nonzero()[-1])
    logits[0, last] = 0
    logits[0, last, 9] = 50
    assert right_answers(logits, text) == [[True, False, True], [True]]


def test_a_special_token_in_any_turn_is_refused(packer: Packer) -> None:
    for place in range(2):
        for turn in (TextTurn("Is it</s> red?", "no"), TextTurn("Is it red?", "a </s>")):
            turns = [TextTurn("Is it red?", "no"), TextTurn("Is it blue?", "no")]
            turns[place] = turn
            with pytest.raises(InvalidInput, match="special token"):
                packer.pack_conversations([[turns]])


def test_a_template_without_answers_between_questions_is_refused_for_several_turns() -> None:
    processor = build_processor(build_tokenizer(corpus_scenes=100))
    processor.chat_template = (
        "{% for part in messages[-1]['content'] %}{% if part['type'] == 'image' %}<image>{% else %}"
        "{{ part['text'] }}{% endif %}{% endfor %}"
    )
    packer = Packer(processor, NUM_PATCHES)
    assert packer.pack_conversations([[TALK[:1]]]).answers.max() == 1
    with pytest.raises(ConfigError, match="between two questions"):
        packer.pack_conversations([[TALK]])


def test_descriptions_are_as_in_a_question_alone() -> None:
    rng = np.random.default_rng(3)
    scene = sample_scene(rng)
    described = describe(scene, rng)
    for index in range(30):
        asked = conversation(scene, np.random.default_rng(index), 3)
        for question in asked:
            if question.kind == DESCRIBE:
                assert question.answer == described.answer
