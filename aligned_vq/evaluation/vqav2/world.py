"""The reference world's test images in VQA-v2's file format, so that the evaluation runs offline.

Files have the official names, so that the same code reads them; `info` and `data_type` state what
they are. Images are JPEG files of quality 95 without chroma subsampling.

Ten simulated people answer each question. For half of the questions, all give the correct answer in
the same spelling. For the others, six to nine do; each of the rest gives it in another spelling
("two" for "2", "a star", "Yes.") or gives a wrong answer of the same kind.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tqdm import tqdm

import aligned_vq
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.data.scenes.questions import SceneQuestion
from aligned_vq.data.scenes.scene import COLOURS, MAX_OBJECTS, SHAPES, SIZES
from aligned_vq.data.vqav2_files import annotations_path, image_path, questions_path
from aligned_vq.evaluation.vqav2.files import PEOPLE
from aligned_vq.files.atomic_file import new_file, write_file

SPLIT = "val2014"
DATA_TYPE = "reference_world"
_SEED = 2014
_UNANIMOUS_SHARE = 0.5
_MIN_PLAIN = 6
"""Least number of people with the same correct spelling, which is thus the most frequent answer."""
_RESPELLED_SHARE = 0.5
_DATE = "2026-11-21 00:00:00"  # constant, so that the same command writes the same bytes
_WORDS = ("zero", "one", "two", "three", "four", "five")
_NUMBERS = tuple(str(number) for number in range(MAX_OBJECTS + 1))
_ANSWER_SETS = (("yes", "no"), _NUMBERS, tuple(COLOURS), SHAPES, SIZES)
_DIRECTIONS = (("left", "right"), ("above", "below"))
_RESPELLINGS: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.capitalize,
    lambda text: f"{text}.",
    lambda text: f"a {text}",
    lambda text: f"the {text}",
    lambda text: _WORDS[int(text)] if text in _NUMBERS else f"{text} ",
)
# Those of the official question types with which the world's questions begin.
_QUESTION_TYPES = (
    *("how many", "what color is the", "what is the", "what is the color of the", "what kind of"),
    *("what", "which", "is the", "is there a", "is there", "are the", "are there", "does the"),
    *("do", "do you", "can you", "where is the", "how"),
)
_OTHER_TYPE = "none of the above"


def write_world(folder: Path, num_questions: int) -> None:
    """Write images, questions and annotations; deterministic for a number of questions.

    Raises:
        OSError: the folder cannot be written.
    """
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rng = np.random.default_rng(_SEED)
    with tqdm(total=num_questions, desc="write", unit="question") as bar:
        for image_id, image in enumerate(exam_images(num_questions), 1):
            _save(image.image, image_path(folder, SPLIT, image_id))
            short = image.questions[:-1]  # not the description
            for number, question in enumerate(short):
                # As in VQA-v2, a question's id is the image's id followed by three digits.
                ids = {"image_id": image_id, "question_id": 1000 * image_id + number}
                questions.append({**ids, "question": question.text})
                annotations.append(ids | _annotation(question, rng))
            bar.update(len(short))
    header = {
        "info": {
            "description": "The reference world of aligned-vq in VQA v2.0's format: rendered "
            "scenes and made-up people, neither VQA v2.0 nor COCO.",
            "url": "",
            "version": aligned_vq.__version__,
            "year": int(_DATE[:4]),
            "contributor": "aligned-vq",
            "date_created": _DATE,
        },
        "data_type": DATA_TYPE,
        "data_subtype": SPLIT,
        "license": {"name": "Apache-2.0", "url": "https://www.apache.org/licenses/LICENSE-2.0"},
    }
    questions_file = {**header, "task_type": "Open-Ended", "questions": questions}
    write_file(questions_path(folder, SPLIT), json.dumps(questions_file))
    annotations_file = {**header, "annotations": annotations}
    write_file(annotations_path(folder, SPLIT), json.dumps(annotations_file))


def _save(image: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as temporary:
        image.save(temporary, "JPEG", quality=95, subsampling=0)


def _annotation(question: SceneQuestion, rng: np.random.Generator) -> dict[str, Any]:
    answers = _human_answers(question.answer, rng)
    confidence = rng.choice(("yes", "maybe", "no"), size=PEOPLE, p=(0.8, 0.15, 0.05)).tolist()
    return {
        "question_type": _question_type(question.text),
        "answer_type": _answer_type(question.answer),
        "multiple_choice_answer": question.answer,
        "answers": [
            {"answer": text, "answer_confidence": sure, "answer_id": person}
            for person, (text, sure) in enumerate(zip(answers, confidence, strict=True), 1)
        ],
    }


def _human_answers(truth: str, rng: np.random.Generator) -> list[str]:
    """The answers of ten simulated people, in random order."""
    plain = PEOPLE if rng.random() < _UNANIMOUS_SHARE else int(rng.integers(_MIN_PLAIN, PEOPLE))
    wrong = _wrong_answers(truth)
    answers = [truth] * plain
    for _ in range(PEOPLE - plain):
        if rng.random() < _RESPELLED_SHARE:
            answers.append(_RESPELLINGS[int(rng.integers(len(_RESPELLINGS)))](truth))
        else:
            answers.append(wrong[int(rng.integers(len(wrong)))])
    return [answers[index] for index in rng.permutation(PEOPLE)]


def _wrong_answers(truth: str) -> tuple[str, ...]:
    """The other possible answers to the same kind of question."""
    for answers in (*_ANSWER_SETS, *_DIRECTIONS):
        if truth in answers:
            return tuple(text for text in answers if text != truth)
    raise ValueError(f"expected an answer of the reference world, got {truth!r}")


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdecimal() else "other"


def _question_type(text: str) -> str:
    """The longest official type with which the question begins."""
    # The official types use the American spelling.
    words = f"{text.lower().replace('colour', 'color').rstrip('?.')} "
    # With a space, so that a type matches whole words only.
    matches = [kind for kind in _QUESTION_TYPES if words.startswith(f"{kind} ")]
    return max(matches, key=len, default=_OTHER_TYPE)
