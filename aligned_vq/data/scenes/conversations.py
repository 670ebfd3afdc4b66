"""Conversations about a scene: several questions behind one image, each with its one right answer.

Every answer follows from the picture alone, as if its question had been the first.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np

from aligned_vq.data.scenes.questions import KINDS, SceneQuestion, describe, short_questions
from aligned_vq.data.scenes.scene import Scene
from aligned_vq.llava.packing import TextTurn

DESCRIBED_SHARE = 0.4
WRONG_SHARE = 0.1


def conversation(
    scene: Scene, rng: np.random.Generator, num_turns: int, emphasis: Iterable[str] = ()
) -> list[SceneQuestion]:
    """`num_turns` different questions, fewer where a scene has not as many.

    Four times out of ten one of them asks for a description. Half the short ones are of the kinds
    in `emphasis`, if there are any.
    """
    special = num_turns // 2 if (kinds := tuple(emphasis)) else 0
    asked = short_questions(scene, rng, special, kinds) if special else []
    texts = {question.text for question in asked}
    more = short_questions(scene, rng, num_turns, KINDS)
    asked += [question for question in more if question.text not in texts]
    asked = asked[:num_turns]
    rng.shuffle(asked)
    if rng.random() < DESCRIBED_SHARE:
        asked[int(rng.integers(len(asked)))] = describe(scene, rng)
    return asked


def learned_turns(
    asked: Sequence[SceneQuestion], scene: Scene, rng: np.random.Generator
) -> tuple[TextTurn, ...]:
    """The conversation as it is taught.

    One answer in ten is one that the model might have given instead, and is not learned: what comes
    behind it must be read from the image, not from what was said.
    """
    turns = []
    for question in asked:
        wrong = _wrong_answer(question, scene, rng) if rng.random() < WRONG_SHARE else None
        turns.append(TextTurn(question.text, wrong or question.answer, learned=wrong is None))
    if not any(turn.learned for turn in turns):
        turns = [TextTurn(question.text, question.answer) for question in asked]
    return tuple(turns)


def _wrong_answer(question: SceneQuestion, scene: Scene, rng: np.random.Generator) -> str | None:
    """The answer to another question of the kind, if it is another one."""
    if question.kind not in KINDS:
        return None
    others = short_questions(scene, rng, 3, (question.kind,))
    answers = [other.answer for other in others if other.answer != question.answer]
    return answers[0] if answers else None
