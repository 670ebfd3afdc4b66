"""Lessons on disk: images are decoded once, and the teacher sees each of them once.

FOLDER/greys.npy     uint8 [M, H, W]: the student's views
FOLDER/hidden.npy    float16 [M, N', D]
FOLDER/logits.f16    float16 [T, V]: of the compared tokens of all images
FOLDER/lessons.json  questions and answers, and the number of compared tokens of each image
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from numpy.typing import NDArray
from tqdm import tqdm

from aligned_vq.data.batches import prefetched
from aligned_vq.data.examples import QuestionAnswer
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.modality.lessons import (
    DecodedLessons,
    DecodedViews,
    Lesson,
    Lessons,
    Questions,
    Taught,
    Teacher,
    compared,
)

_GREYS, _HIDDEN, _LOGITS, _FACTS = "greys.npy", "hidden.npy", "logits.f16", "lessons.json"
_IMAGES_AT_ONCE = 8


class StoredLessons:
    """Lessons of a folder that `stored` filled.

    Args:
        folder: with its files.
        decoded: the same lessons, whose images are not decoded here.
    """

    def __init__(self, folder: Path, decoded: DecodedLessons) -> None:
        self._decoded = decoded
        facts = json.loads((folder / _FACTS).read_text("utf-8"))
        self._questions: list[Questions] = [
            tuple(QuestionAnswer(*pair) for pair in pairs) for pairs in facts["questions"]
        ]
        self._ends = np.cumsum(facts["tokens"])
        self._greys = np.load(folder / _GREYS, mmap_mode="r")
        self._hidden = np.load(folder / _HIDDEN, mmap_mode="r")
        self._logits = np.memmap(folder / _LOGITS, np.float16, "r").reshape(int(self._ends[-1]), -1)

    def __len__(self) -> int:
        """Number of views."""
        return len(self._questions)

    def lesson(self, indices: Sequence[int]) -> Lesson:
        """See `Lessons`; with what the teacher made of it."""
        logits = np.concatenate(
            [self._logits[self._ends[i - 1] if i else 0 : self._ends[i]] for i in indices]
        )
        hidden = torch.from_numpy(self._hidden[list(indices)].astype(np.float32))
        return Lesson(
            self._decoded.student_pixels(self._greys[list(indices)]),
            self._decoded.texts.packed([self._questions[index] for index in indices]),
            None,
            Taught(hidden, torch.from_numpy(logits.astype(np.float32))),
        )


def stored(lessons: DecodedLessons, teacher: Teacher, folder: Path, limit_mib: int) -> Lessons:
    """The lessons with what the teacher makes of them, in `folder`; filled unless it has them.

    Args:
        lessons: to decode.
        teacher: sees each colour image.
        folder: of the files; one that holds lessons about other views is filled again.
        limit_mib: where the files would need more, nothing is written, and the result are the
            decoded lessons, which the teacher sees in every step.

    Raises:
        ConfigError: an image is missing.
        InvalidInput: an image is damaged, constant or not of its modality.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    seen = {"source": lessons.source.name, "preparation": lessons.preparation.to_dict()}
    facts: dict[str, Any] = json.loads(json.dumps(seen))  # as they are read, without tuples
    if not _holds(folder, facts):
        if _bytes_of(lessons, teacher) > limit_mib * 2**20:
            return lessons
        folder.parent.mkdir(parents=True, exist_ok=True)
        with new_folder(folder, (_GREYS, _HIDDEN, _LOGITS, _FACTS)) as new:
            _fill(new, lessons, teacher, facts)
    return StoredLessons(folder, lessons)


def _holds(folder: Path, facts: dict[str, Any]) -> bool:
    try:
        found = json.loads((folder / _FACTS).read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return {name: found.get(name) for name in facts} == facts


def _bytes_of(lessons: DecodedLessons, teacher: Teacher) -> int:
    """What the files need, estimated from the first images."""
    few = range(min(_IMAGES_AT_ONCE, len(lessons)))
    lesson = lessons.lesson(few)
    assert lesson.rgb is not None
    taught = teacher(lesson.rgb, lesson.text)
    # One byte for each grey, two for each of the other numbers.
    numbers = lesson.pixels[:, 0].numel() + 2 * (taught.hidden.numel() + taught.logits.numel())
    return numbers * len(lessons) // len(few)


def _fill(folder: Path, lessons: DecodedLessons, teacher: Teacher, facts: dict[str, Any]) -> None:
    count = len(lessons)
    questions: list[Questions] = []
    tokens: list[int] = []
    starts = range(0, count, _IMAGES_AT_ONCE)

    def decoded(part: int) -> DecodedViews:
        return lessons.decoded(range(starts[part], min(starts[part] + _IMAGES_AT_ONCE, count)))

    arrays: dict[str, NDArray[Any]] = {}
    with (
        (folder / _LOGITS).open("wb") as logits,
        tqdm(total=count, desc=f"teacher, {folder.name}", unit="image") as bar,
        closing(prefetched(decoded, 0, len(starts))) as parts,
    ):
        for views in parts:
            text = lessons.texts.packed(views.questions)
            taught = teacher(views.rgb, text)
            own = {_GREYS: views.greys, _HIDDEN: taught.hidden.half().cpu().numpy()}
            for name, part in own.items():
                if name not in arrays:
                    shape = (count, *part.shape[1:])
                    arrays[name] = open_memmap(folder / name, "w+", part.dtype, shape)
                arrays[name][len(questions) : len(questions) + len(part)] = part
            logits.write(taught.logits.half().cpu().numpy().tobytes())
            questions += views.questions
            tokens += compared(text).sum(1).tolist()
            bar.update(len(views.questions))
    for array in arrays.values():
        array.flush()  # type: ignore[attr-defined]
    # Last, because it declares the files complete.
    text_facts = facts | {"questions": questions, "tokens": tokens}
    (folder / _FACTS).write_text(json.dumps(text_facts), "utf-8")
