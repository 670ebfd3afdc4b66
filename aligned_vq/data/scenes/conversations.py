"""Conversations about a scene: several questions about one image, each with one correct answer.

Every answer depends on the image only, not on earlier turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from aligned_vq.data.scenes.questions import KINDS, SceneQuestion, describe, short_questions
from aligned_vq.data.scenes.scene import Scene
from aligned_vq.llava.packing import TextTurn

DESCRIPTION_SHARE = 0.4
"""Fraction of conversations with a request for a description."""
WRONG_SHARE = 0.1
"""Fraction of answers that `learned_turns` replaces by wrong ones."""


def conversation(
    scene: Scene, rng: np.random.Generator, num_turns: int, emphasis: Iterable[str] = ()
) -> list[SceneQuestion]:
    """`num_turns` distinct questions, or fewer if the scene does not allow more.

    With probability `DESCRIPTION_SHARE`, one of them asks for a description. Half of the short
    questions are of the kinds in `emphasis`, if any are given.
    """
    num_emphasised = num_turns // 2 if (kinds := tuple(emphasis)) else 0
    questions = short_questions(scene, rng, num_emphasised, kinds) if num_emphasised else []
    texts = {question.text for question in questions}
    candidates = short_questions(scene, rng, num_turns, KINDS)
    questions += [question for question in candidates if question.text not in texts]
    questions = questions[:num_turns]
    rng.shuffle(questions)
    if rng.random() < DESCRIPTION_SHARE:
        questions[int(rng.integers(len(questions)))] = describe(scene, rng)
    return questions


def learned_turns(
    questions: Sequence[SceneQuestion], scene: Scene, rng: np.random.Generator
) -> tuple[TextTurn, ...]:
    """The conversation as training text.

    A fraction `WRONG_SHARE` of the answers is replaced by plausible wrong ones without labels, so
    that the model learns to answer from the image and not from earlier answers.
    """
    turns = []
    for question in questions:
        wrong = _wrong_answer(question, scene, rng) if rng.random() < WRONG_SHARE else None
        turns.append(TextTurn(question.text, wrong or question.answer, learned=wrong is None))
    # A conversation without labels would teach nothing.
    if not any(turn.learned for turn in turns):
        turns = [TextTurn(question.text, question.answer) for question in questions]
    return tuple(turns)


def _wrong_answer(question: SceneQuestion, scene: Scene, rng: np.random.Generator) -> str | None:
    """The different answer of another question of the same kind; None if there is none."""
    if question.kind not in KINDS:
        return None
    others = short_questions(scene, rng, 3, (question.kind,))
    answers = [other.answer for other in others if other.answer != question.answer]
    return answers[0] if answers else None
