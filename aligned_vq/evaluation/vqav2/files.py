"""A split of VQA-v2 as the evaluation reads it: pictures, questions, and what people answered."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from aligned_vq.data.json_stream import Record
from aligned_vq.data.vqav2_files import (
    ANSWERED_SPLITS,
    IMAGE_ID,
    QUESTION_ID,
    TEST_SPLITS,
    load_picture,
    open_annotations,
    open_questions,
    order,
    questions_path,
    rows_of_annotations,
)
from aligned_vq.errors import ConfigError

PEOPLE = 10
"""Answers to every question."""
_READ_AT_ONCE = 4096
_DATA_TYPE = re.compile(r'"data_type"\s*:\s*"([^"\\]*)"')
_OFFICIAL_TYPE = "mscoco"
_ENDS_BYTES = 4096  # of a file, in which its data type stands


class VqaQuestion(NamedTuple):
    """One question as a person asks it."""

    question_id: int
    text: str


class Judgement(NamedTuple):
    """What ten people answered to a question, and of which types the official files call it."""

    question_id: int
    image_id: int
    given: tuple[str, ...]
    answer_type: str
    question_type: str


class VqaSplit:
    """Questions of a split, image by image, ordered by image id, those of an image as in the file.

    The files are checked and indexed at the first start and never held.

    Args:
        folder: what holds the files and the image folder; see `aligned_vq.data.vqav2_files`.
        split: with answers, or one of the test splits, whose answers nobody outside has.
        workdir: where the indices are kept.
        limit: only so many questions, the first ones; None: all.

    Raises:
        ConfigError: there is no such split, a file is missing or malformed, or the files do not go
            together.
    """

    def __init__(self, folder: Path, split: str, workdir: Path, limit: int | None = None) -> None:
        if split not in (*ANSWERED_SPLITS, *TEST_SPLITS):
            known = ", ".join((*ANSWERED_SPLITS, *TEST_SPLITS))
            raise ConfigError(f"expected a VQA-v2 split, one of {known}, got {split!r}")
        self.folder = folder
        self.split = split
        self._workdir = workdir
        self._questions = open_questions(folder, split, workdir)
        _refuse_twice(self._questions.path, self._questions.columns[:, QUESTION_ID])
        self._rows = order(self._questions, IMAGE_ID)[:limit]
        columns = self._questions.columns[self._rows]
        self.image_ids, starts = np.unique(columns[:, IMAGE_ID], return_index=True)
        self._bounds = np.append(starts, len(self._rows))
        path = self._questions.path
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        """Of the file of questions."""
        self.data_type = _data_type(path)
        """What the file says that it is; `mscoco` for VQA-v2 itself."""
        self.is_whole = len(self._rows) == len(self._questions)
        """No limit cuts it short."""

    def __len__(self) -> int:
        """How many questions are asked."""
        return len(self._rows)

    @property
    def label(self) -> str:
        """For tables: the split, and that it is not VQA-v2's where the file says so."""
        return self.split if self.data_type == _OFFICIAL_TYPE else self.data_type

    @property
    def has_answers(self) -> bool:
        """Whether an accuracy can be computed here."""
        return self.split in ANSWERED_SPLITS

    def questions(self, index: int) -> list[VqaQuestion]:
        """What is asked about the image with the `index`-th smallest id."""
        rows = self._rows[self._bounds[index] : self._bounds[index + 1]]
        return [
            VqaQuestion(record.fields["question_id"], record.fields["question"])
            for record in self._questions.read(rows)
        ]

    def question_ids(self, index: int) -> list[int]:
        """Their ids alone, without reading the file."""
        rows = self._rows[self._bounds[index] : self._bounds[index + 1]]
        ids: list[int] = self._questions.columns[rows, QUESTION_ID].tolist()
        return ids

    def picture(self, index: int) -> Image.Image:
        """The image itself, upright RGB.

        Raises:
            ConfigError: its file is missing; InvalidInput: it is damaged.
        """
        image_id = int(self.image_ids[index])
        return load_picture(self.folder, self.split, image_id, f"image {image_id}")

    def ids_in_file(self) -> list[int]:
        """The ids of all questions that are asked, in the file's order."""
        ids: list[int] = self._questions.columns[np.sort(self._rows), QUESTION_ID].tolist()
        return ids

    def ids_to_upload(self) -> list[int] | None:
        """The ids that the evaluation server wants answered: all of test2015, whichever the phase.

        None if they are not known here, as only the questions of test-dev2015 are.
        """
        if self.split != TEST_SPLITS[0]:
            return self.ids_in_file()
        if not questions_path(self.folder, TEST_SPLITS[1]).is_file():
            return None
        every = open_questions(self.folder, TEST_SPLITS[1], self._workdir)
        ids: list[int] = every.columns[:, QUESTION_ID].tolist()
        return ids

    def judgements(self) -> Iterator[Judgement]:
        """What people answered to the questions asked, in the annotations' order.

        Raises:
            ConfigError: the split has no answers, or the file is missing or malformed.
        """
        annotations = open_annotations(
            self.folder, self.split, self._workdir, "ten-answers", judgement
        )
        rows = np.sort(rows_of_annotations(self._questions, annotations)[self._rows])
        for start in range(0, len(rows), _READ_AT_ONCE):
            for record in annotations.read(rows[start : start + _READ_AT_ONCE]):
                yield judgement(record)


def judgement(record: Record) -> Judgement:
    """An annotation, checked.

    Raises:
        ConfigError: it lacks one of its two types, or does not hold ten people's answers.
    """
    fields = record.fields
    types = (record.text(fields.get(key), repr(key)) for key in ("answer_type", "question_type"))
    answer_type, question_type = types
    answers = fields.get("answers")
    people = answers if isinstance(answers, list) else []
    if len(people) != PEOPLE or not all(isinstance(person, dict) for person in people):
        raise ConfigError(
            f"{record.name}: expected 'answers' to be those of {PEOPLE} people, got "
            f"{answers!s:.80}; mend the record or take it out"
        )
    if len({str(person.get("answer_id")) for person in people}) != PEOPLE:
        raise ConfigError(
            f"{record.name}: expected another 'answer_id' for each of {PEOPLE} people, got one "
            "twice; mend the record or take it out"
        )
    given = tuple(record.text(person.get("answer"), "an 'answer'") for person in people)
    question_id, image_id = fields["question_id"], fields["image_id"]
    return Judgement(question_id, image_id, given, answer_type, question_type)


def _refuse_twice(path: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    known, counts = np.unique(ids, return_counts=True)
    if len(known) != len(ids):
        twice = known[counts > 1]
        raise ConfigError(
            f"{path}: expected every question once, got {len(twice)} ids more than once, such as "
            f"{twice[0]}; fetch the file again or mend it"
        )


def _data_type(path: Path) -> str:
    """From the beginning or the end of the file, as its questions are not to be held."""
    with path.open("rb") as file:
        start = file.read(_ENDS_BYTES)
        file.seek(max(0, path.stat().st_size - _ENDS_BYTES))
        ends = (start, file.read())
    for end in ends:
        found = _DATA_TYPE.search(end.decode("utf-8", "replace"))
        if found is not None:
            return found[1]
    return _OFFICIAL_TYPE
