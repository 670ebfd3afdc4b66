"""Test pictures of the reference world with their questions, and pictures for calibration."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from aligned_vq.data.scenes.conversations import conversation
from aligned_vq.data.scenes.questions import SceneQuestion, describe, short_questions
from aligned_vq.data.scenes.scene import SPLITS, Split, render, sample_scene, scene_rng

QUESTIONS_PER_IMAGE = 8
_CONVERSATIONS = 7  # what is asked is drawn apart from the scene, of which the split is the seed


@dataclass(frozen=True)
class ExamImage:
    """A test picture with its questions; `exam_images` ends them with one for a description."""

    picture: Image.Image
    questions: tuple[SceneQuestion, ...]


def exam_images(num_questions: int, split: Split = "test") -> Iterator[ExamImage]:
    """Pictures of a split with at least `num_questions` short questions in all."""
    asked = index = 0
    while asked < num_questions:
        rng = scene_rng(split, index)
        scene = sample_scene(rng)
        short = short_questions(scene, rng, QUESTIONS_PER_IMAGE)[: num_questions - asked]
        asked += len(short)
        index += 1
        picture = Image.fromarray(render(scene).pixels)
        yield ExamImage(picture, (*short, describe(scene, rng)))


def exam_conversations(
    count: int, num_turns: int, split: Split = "test", first: int = 0
) -> Iterator[ExamImage]:
    """Pictures of a split from the scene `first` on, each with a conversation of so many turns.

    A description is asked for in some, at any turn; scenes with fewer questions are left out.
    """
    given = 0
    for index in itertools.count(first):
        if given == count:
            return
        rng = np.random.default_rng([_CONVERSATIONS, SPLITS.index(split), index])
        scene = sample_scene(scene_rng(split, index))
        asked = conversation(scene, rng, num_turns)
        if len(asked) == num_turns:
            given += 1
            yield ExamImage(Image.fromarray(render(scene).pixels), tuple(asked))


def training_pictures(count: int) -> Iterator[Image.Image]:
    """Pictures of the training split, for calibration."""
    for index in range(count):
        yield Image.fromarray(render(sample_scene(scene_rng("train", index))).pixels)


def majority_answers(exam: Sequence[ExamImage]) -> dict[str, float]:
    """By kind, and over all short questions as "short", what always giving the kind's most
    frequent answer would get right: a share from 0 to 1."""
    given: dict[str, Counter[str]] = {}
    short: set[str] = set()
    for image in exam:
        short.update(question.kind for question in image.questions[:-1])
        for question in image.questions:
            given.setdefault(question.kind, Counter())[question.answer] += 1
    most = {kind: answers.most_common(1)[0][1] for kind, answers in given.items()}
    shares = {kind: most[kind] / answers.total() for kind, answers in given.items()}
    asked = sum(given[kind].total() for kind in short)
    return {**shares, "short": sum(most[kind] for kind in short) / asked}
