"""A split of VQA-v2 for evaluation: images, questions and human answers."""

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
    load_split_image,
    open_annotations,
    open_questions,
    order,
    questions_path,
    rows_of_annotations,
)
from aligned_vq.errors import ConfigError

PEOPLE = 10
"""Human answers per question."""
_READ_AT_ONCE = 4096
_DATA_TYPE = re.compile(r'"data_type"\s*:\s*"([^"\\]*)"')
_OFFICIAL_TYPE = "mscoco"
_SEARCHED_BYTES = 4096  # at both ends of a file, for its data type


class VqaQuestion(NamedTuple):
    """One question, without a suffix."""

    question_id: int
    text: str


class HumanAnswers(NamedTuple):
    """The answers of ten people to a question, and its official types."""

    question_id: int
    image_id: int
    answers: tuple[str, ...]
    answer_type: str
    question_type: str


class VqaSplit:
    """The questions of a split, ordered by image id, those of an image in the file's order.

    The files are checked and indexed on first use, and not kept in memory.

    Args:
        folder: with the files and the image folder; see `aligned_vq.data.vqav2_files`.
        split: with public answers, or one of the test splits.
        workdir: folder for the indices.
        limit: use only this many questions, the first ones; None: all.

    Raises:
        ConfigError: the split is unknown, a file is missing or malformed, or the files do not
            match.
    """

    def __init__(self, folder: Path, split: str, workdir: Path, limit: int | None = None) -> None:
        if split not in (*ANSWERED_SPLITS, *TEST_SPLITS):
            splits = ", ".join((*ANSWERED_SPLITS, *TEST_SPLITS))
            raise ConfigError(f"expected a VQA-v2 split, one of {splits}, got {split!r}")
        self.folder = folder
        self.split = split
        self._workdir = workdir
        self._questions = open_questions(folder, split, workdir)
        _check_unique(self._questions.path, self._questions.columns[:, QUESTION_ID])
        self._rows = order(self._questions, IMAGE_ID)[:limit]
        columns = self._questions.columns[self._rows]
        # Rows are sorted by image, so those of an image are consecutive.
        self.image_ids, starts = np.unique(columns[:, IMAGE_ID], return_index=True)
        self._bounds = np.append(starts, len(self._rows))  # and the end of the last
        path = self._questions.path
        with path.open("rb") as file:
            self.digest = hashlib.file_digest(file, "sha256").hexdigest()
        """SHA-256 of the questions file, in hexadecimal."""
        self.data_type = _data_type(path)
        """The file's `data_type`; `mscoco` for VQA-v2 itself."""
        self.is_whole = len(self._rows) == len(self._questions)
        """Whether all questions are used."""

    def __len__(self) -> int:
        """Number of questions used."""
        return len(self._rows)

    @property
    def label(self) -> str:
        """Name in tables: the split, or the data type of a file that is not VQA-v2's."""
        return self.split if self.data_type == _OFFICIAL_TYPE else self.data_type

    @property
    def has_answers(self) -> bool:
        """Whether human answers are public, so that the accuracy can be computed."""
        return self.split in ANSWERED_SPLITS

    def questions(self, index: int) -> list[VqaQuestion]:
        """The questions about the image with the `index`-th smallest id."""
        rows = self._rows[self._bounds[index] : self._bounds[index + 1]]
        return [
            VqaQuestion(record.fields["question_id"], record.fields["question"])
            for record in self._questions.read(rows)
        ]

    def question_ids(self, index: int) -> list[int]:
        """The ids of these questions, without reading the file."""
        rows = self._rows[self._bounds[index] : self._bounds[index + 1]]
        ids: list[int] = self._questions.columns[rows, QUESTION_ID].tolist()
        return ids

    def image(self, index: int) -> Image.Image:
        """The image with the `index`-th smallest id, upright RGB.

        Raises:
            ConfigError: the file is missing.
            InvalidInput: the file is damaged.
        """
        image_id = int(self.image_ids[index])
        return load_split_image(self.folder, self.split, image_id, f"image {image_id}")

    def ids_in_file(self) -> list[int]:
        """The ids of all questions used, in the file's order."""
        ids: list[int] = self._questions.columns[np.sort(self._rows), QUESTION_ID].tolist()
        return ids

    def ids_to_upload(self) -> list[int] | None:
        """The ids that the evaluation server requires: those of test2015 for both test splits.

        None if the questions of test2015 are not in the folder.
        """
        if self.split != TEST_SPLITS[0]:
            return self.ids_in_file()
        if not questions_path(self.folder, TEST_SPLITS[1]).is_file():
            return None
        test_questions = open_questions(self.folder, TEST_SPLITS[1], self._workdir)
        ids: list[int] = test_questions.columns[:, QUESTION_ID].tolist()
        return ids

    def human_answers(self) -> Iterator[HumanAnswers]:
        """The human answers to the questions used, in the annotations' order.

        Raises:
            ConfigError: the split has no answers, or the file is missing or malformed.
        """
        annotations = open_annotations(
            self.folder, self.split, self._workdir, "ten-answers", parse_annotation
        )
        # In the annotations' order, on which rounding errors of sums depend.
        rows = np.sort(rows_of_annotations(self._questions, annotations)[self._rows])
        for start in range(0, len(rows), _READ_AT_ONCE):
            for record in annotations.read(rows[start : start + _READ_AT_ONCE]):
                yield parse_annotation(record)


def parse_annotation(record: Record) -> HumanAnswers:
    """The human answers in an annotation.

    Raises:
        ConfigError: one of the two types is missing, or there are not ten people's answers.
    """
    fields = record.fields
    types = (record.text(fields.get(key), repr(key)) for key in ("answer_type", "question_type"))
    answer_type, question_type = types
    answers = fields.get("answers")
    people = answers if isinstance(answers, list) else []
    if len(people) != PEOPLE or not all(isinstance(person, dict) for person in people):
        raise ConfigError(
            f"{record.name}: expected 'answers' to be those of {PEOPLE} people, got "
            f"{answers!s:.80}; correct or remove the record"
        )
    if len({str(person.get("answer_id")) for person in people}) != PEOPLE:
        raise ConfigError(
            f"{record.name}: expected another 'answer_id' for each of {PEOPLE} people, got one "
            "twice; correct or remove the record"
        )
    texts = tuple(record.text(person.get("answer"), "an 'answer'") for person in people)
    question_id, image_id = fields["question_id"], fields["image_id"]
    return HumanAnswers(question_id, image_id, texts, answer_type, question_type)


def _check_unique(path: Path, ids: np.ndarray[tuple[int, ...], np.dtype[np.int64]]) -> None:
    distinct, counts = np.unique(ids, return_counts=True)
    if len(distinct) != len(ids):
        duplicates = distinct[counts > 1]
        raise ConfigError(
            f"{path}: expected every question once, got {len(duplicates)} ids more than once, such "
            f"as {duplicates[0]}; fetch the file again or correct it"
        )


def _data_type(path: Path) -> str:
    """The file's `data_type`, searched at its start and end only, because it is too large."""
    with path.open("rb") as file:
        start = file.read(_SEARCHED_BYTES)
        # The key may precede or follow the list of questions.
        file.seek(max(0, path.stat().st_size - _SEARCHED_BYTES))
        end = file.read()
    for part in (start, end):
        # The cut may divide a character.
        match = _DATA_TYPE.search(part.decode("utf-8", "replace"))
        if match is not None:
            return match[1]
    return _OFFICIAL_TYPE
