"""The reference world's test pictures in VQA-v2's file format, so that the whole job runs anywhere.

The names are the official ones, so that the same code reads them, and the files say in `info` and
`data_type` what they really are. Pictures are JPEG files of quality 95 without chroma subsampling.

Ten made-up people answer each question, seeded. For half of the questions all ten write the true
answer alike. For the others six to nine of them do, and each of the rest either writes it in
another way ("two" for "2", "a star", "Yes.") or is of another mind: another answer that the same
kind of question gets in the world.
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
from aligned_vq.data.vqav2_files import annotations_path, picture_path, questions_path
from aligned_vq.evaluation.vqav2.files import PEOPLE
from aligned_vq.files.atomic_file import new_file, write_file

SPLIT = "val2014"
DATA_TYPE = "reference_world"
_SEED = 2014
_UNANIMOUS = 0.5
_FEWEST_PLAIN = 6
"""Of ten people write the true answer alike, so that it stays the most frequent one."""
_OTHERWISE_WRITTEN = 0.5
_DATE = "2026-11-21 00:00:00"  # of the format, so that the same command writes the same bytes
_WORDS = ("zero", "one", "two", "three", "four", "five")
_NUMBERS = tuple(str(number) for number in range(MAX_OBJECTS + 1))
_FAMILIES = (("yes", "no"), _NUMBERS, tuple(COLOURS), SHAPES, SIZES)
_SIDES = (("left", "right"), ("above", "below"))
_LOOKS: tuple[Callable[[str], str], ...] = (
    str.upper,
    str.capitalize,
    lambda text: f"{text}.",
    lambda text: f"a {text}",
    lambda text: f"the {text}",
    lambda text: _WORDS[int(text)] if text in _NUMBERS else f"{text} ",
)
# Of the official list of first words, those that the world's questions begin with.
_QUESTION_TYPES = (
    *("how many", "what color is the", "what is the", "what is the color of the", "what kind of"),
    *("what", "which", "is the", "is there a", "is there", "are the", "are there", "does the"),
    *("do", "do you", "can you", "where is the", "how"),
)
_OTHER_TYPE = "none of the above"


def write_world(folder: Path, num_questions: int) -> None:
    """Write pictures, questions and annotations; the same number gives the same bytes.

    Raises:
        OSError: the folder cannot be written.
    """
    questions: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    rng = np.random.default_rng(_SEED)
    with tqdm(total=num_questions, desc="write", unit="question") as bar:
        for image_id, image in enumerate(exam_images(num_questions), 1):
            _save(image.picture, picture_path(folder, SPLIT, image_id))
            short = image.questions[:-1]
            for number, question in enumerate(short):
                ids = {"image_id": image_id, "question_id": 1000 * image_id + number}
                questions.append({**ids, "question": question.text})
                annotations.append(ids | _annotation(question, rng))
            bar.update(len(short))
    head = {
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
    asked = {**head, "task_type": "Open-Ended", "questions": questions}
    write_file(questions_path(folder, SPLIT), json.dumps(asked))
    answered = {**head, "annotations": annotations}
    write_file(annotations_path(folder, SPLIT), json.dumps(answered))


def _save(picture: Image.Image, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with new_file(path) as part:
        picture.save(part, "JPEG", quality=95, subsampling=0)


def _annotation(question: SceneQuestion, rng: np.random.Generator) -> dict[str, Any]:
    given = _given(question.answer, rng)
    confidence = rng.choice(("yes", "maybe", "no"), size=PEOPLE, p=(0.8, 0.15, 0.05)).tolist()
    return {
        "question_type": _question_type(question.text),
        "answer_type": _answer_type(question.answer),
        "multiple_choice_answer": question.answer,
        "answers": [
            {"answer": text, "answer_confidence": sure, "answer_id": person}
            for person, (text, sure) in enumerate(zip(given, confidence, strict=True), 1)
        ],
    }


def _given(truth: str, rng: np.random.Generator) -> list[str]:
    """What ten people wrote, in no order."""
    plain = PEOPLE if rng.random() < _UNANIMOUS else int(rng.integers(_FEWEST_PLAIN, PEOPLE))
    others = _others(truth)
    given = [truth] * plain
    for _ in range(PEOPLE - plain):
        if rng.random() < _OTHERWISE_WRITTEN:
            given.append(_LOOKS[int(rng.integers(len(_LOOKS)))](truth))
        else:
            given.append(others[int(rng.integers(len(others)))])
    return [given[place] for place in rng.permutation(PEOPLE)]


def _others(truth: str) -> tuple[str, ...]:
    """What else the same kind of question may be answered with."""
    for family in (*_FAMILIES, *_SIDES):
        if truth in family:
            return tuple(text for text in family if text != truth)
    raise ValueError(f"expected an answer of the reference world, got {truth!r}")


def _answer_type(answer: str) -> str:
    if answer in ("yes", "no"):
        return "yes/no"
    return "number" if answer.isdecimal() else "other"


def _question_type(text: str) -> str:
    """The longest official type that the question begins with."""
    words = f"{text.lower().replace('colour', 'color').rstrip('?.')} "
    fitting = [kind for kind in _QUESTION_TYPES if words.startswith(f"{kind} ")]
    return max(fitting, key=len, default=_OTHER_TYPE)
