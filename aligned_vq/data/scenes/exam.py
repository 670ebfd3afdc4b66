"""Images of the reference world: with questions for tests, without for calibration."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from aligned_vq.data.scenes.cameras import depth_image, infrared_image
from aligned_vq.data.scenes.conversations import conversation
from aligned_vq.data.scenes.questions import (
    SceneQuestion,
    colour_free_questions,
    describe,
    short_questions,
)
from aligned_vq.data.scenes.scene import SPLITS, Split, render, sample_scene, scene_rng
from aligned_vq.images.modality import Modality, Pixels

QUESTIONS_PER_IMAGE = 8
_CONVERSATION_SEED = 7  # questions have other random numbers than the scenes of `scene_rng`


@dataclass(frozen=True)
class ExamImage:
    """A test image with its questions; from `exam_images`, the last one asks for a description."""

    image: Image.Image
    questions: tuple[SceneQuestion, ...]


@dataclass(frozen=True, eq=False)
class TwoCameraScene:
    """A scene in colour and of another camera, with questions that need no colour."""

    image: Image.Image
    other: Pixels
    questions: tuple[SceneQuestion, ...]


def two_camera_scene(
    modality: Modality, split: Split, index: int, num_questions: int = QUESTIONS_PER_IMAGE
) -> TwoCameraScene:
    """A scene of a split as a colour camera and one of `modality`, depth or infrared, see it.

    It has `num_questions` colour-free questions, or fewer if it does not allow more; fewer of them
    are the first ones of more.
    """
    rng = scene_rng(split, index)
    scene = sample_scene(rng)
    questions = colour_free_questions(scene, rng, num_questions)
    rendering = render(scene)
    camera = depth_image if modality == "depth" else infrared_image
    other = camera(scene, rendering.object_map)
    return TwoCameraScene(Image.fromarray(rendering.pixels), other, tuple(questions))


def exam_images(num_questions: int, split: Split = "test") -> Iterator[ExamImage]:
    """Images of a split with `num_questions` short questions in total."""
    total = index = 0
    while total < num_questions:
        rng = scene_rng(split, index)
        scene = sample_scene(rng)
        # Questions continue the random numbers of the scene.
        short = short_questions(scene, rng, QUESTIONS_PER_IMAGE)[: num_questions - total]
        total += len(short)
        index += 1
        image = Image.fromarray(render(scene).pixels)
        yield ExamImage(image, (*short, describe(scene, rng)))


def exam_conversations(
    count: int, num_turns: int, split: Split = "test", first: int = 0
) -> Iterator[ExamImage]:
    """Images of a split from scene `first` on, each with a conversation of `num_turns` turns.

    Some conversations ask for a description, at any turn. Scenes with fewer questions are skipped.
    """
    yielded = 0
    for index in itertools.count(first):
        if yielded == count:
            return
        rng = np.random.default_rng([_CONVERSATION_SEED, SPLITS.index(split), index])
        scene = sample_scene(scene_rng(split, index))
        questions = conversation(scene, rng, num_turns)
        if len(questions) == num_turns:
            yielded += 1
            yield ExamImage(Image.fromarray(render(scene).pixels), tuple(questions))


def scene_images(count: int, split: Split) -> Iterator[Image.Image]:
    """The first images of a split, without questions."""
    for index in range(count):
        yield Image.fromarray(render(sample_scene(scene_rng(split, index))).pixels)


def training_images(count: int) -> Iterator[Image.Image]:
    """Images of the training split, for calibration."""
    return scene_images(count, "train")


def majority_answers(exam: Sequence[ExamImage]) -> dict[str, float]:
    """The accuracy, 0 to 1, of always giving a kind's most frequent answer.

    By kind, and for all short questions together as "short".
    """
    answers: dict[str, Counter[str]] = {}
    short: set[str] = set()
    for image in exam:
        short.update(question.kind for question in image.questions[:-1])
        for question in image.questions:
            answers.setdefault(question.kind, Counter())[question.answer] += 1
    most = {kind: counts.most_common(1)[0][1] for kind, counts in answers.items()}
    shares = {kind: most[kind] / counts.total() for kind, counts in answers.items()}
    num_short = sum(answers[kind].total() for kind in short)
    return {**shares, "short": sum(most[kind] for kind in short) / num_short}
