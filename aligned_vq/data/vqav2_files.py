"""VQA-v2's official files: their names, and questions brought together with their annotations.

FOLDER/v2_OpenEnded_mscoco_train2014_questions.json
FOLDER/v2_mscoco_train2014_annotations.json
FOLDER/train2014/COCO_train2014_000000000009.jpg ...

The question files of both test splits ask about the pictures of test2015, and nobody outside has
their annotations.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from aligned_vq.data.image_folder import open_image
from aligned_vq.data.json_stream import Record
from aligned_vq.data.record_file import RecordFile, Table
from aligned_vq.errors import ConfigError

ANSWERED_SPLITS = ("train2014", "val2014")
TEST_SPLITS = ("test-dev2015", "test2015")
QUESTION_ID, IMAGE_ID = range(2)
"""Columns of both files' tables."""
_COLUMNS = ("question_id", "image_id")
_PICTURES = {"test-dev2015": "test2015"}


def questions_path(folder: Path, split: str) -> Path:
    """Where a split's questions lie."""
    return folder / f"v2_OpenEnded_mscoco_{split}_questions.json"


def annotations_path(folder: Path, split: str) -> Path:
    """Where people's answers to them lie."""
    return folder / f"v2_mscoco_{split}_annotations.json"


def picture_path(folder: Path, split: str, image_id: int) -> Path:
    """Where one of a split's pictures lies."""
    pictures = _PICTURES.get(split, split)
    return folder / pictures / f"COCO_{pictures}_{image_id:012d}.jpg"


def load_picture(folder: Path, split: str, image_id: int, owner: str) -> Image.Image:
    """One of a split's pictures, upright RGB; `owner` asks for it, to begin an error with.

    Raises:
        ConfigError: there is no such file.
        InvalidInput: it is damaged.
    """
    path = picture_path(folder, split, image_id)
    return open_image(path, owner, f"unpack COCO's {path.parent.name}.zip into {folder}")


def open_questions(folder: Path, split: str, workdir: Path) -> RecordFile:
    """A split's questions, each with its text checked; columns are question and image id.

    Raises:
        ConfigError: the file is missing or malformed.
    """

    def check(record: Record) -> None:
        record.text(record.fields.get("question"), "'question'")

    return _open(questions_path(folder, split), "questions", "question", check, workdir)


def open_annotations(
    folder: Path, split: str, workdir: Path, kind: str, check: Callable[[Record], object]
) -> RecordFile:
    """A split's annotations with the same columns.

    Args:
        folder: what holds the files.
        split: one of `ANSWERED_SPLITS`.
        workdir: where the index is kept.
        kind: names `check`, in the index.
        check: raises ConfigError where an annotation lacks what its reader wants.

    Raises:
        ConfigError: the file is missing or malformed.
    """
    return _open(annotations_path(folder, split), "annotations", kind, check, workdir)


def rows_of_annotations(questions: RecordFile, annotations: RecordFile) -> Table:
    """For every question, in the file's order, the row of its annotation.

    Raises:
        ConfigError: the two files are not of the same questions about the same pictures.
    """
    asked, answered = questions.columns, annotations.columns
    ask, answer = order(questions, QUESTION_ID), order(annotations, QUESTION_ID)
    if not np.array_equal(asked[ask], answered[answer]):
        lone = np.setxor1d(asked[:, QUESTION_ID], answered[:, QUESTION_ID])
        raise ConfigError(
            f"expected the same questions about the same images in {questions.path} "
            f"({len(asked)} questions) and {annotations.path} ({len(answered)}), but "
            f"{len(lone)} ids are in one only{f', such as {lone[0]}' if len(lone) else ''}; "
            "take both from one release"
        )
    rows = np.empty(len(asked), np.int64)
    rows[ask] = answer
    return rows


def order(records: RecordFile, column: int) -> Table:
    """Rows sorted by a column; where it ties, as in the file."""
    return np.argsort(records.columns[:, column], kind="stable")


def _open(
    path: Path, member: str, kind: str, check: Callable[[Record], object], workdir: Path
) -> RecordFile:
    if not path.is_file():
        raise ConfigError(
            f"expected VQAv2's {member} at {path}, found no such file; name the folder that holds "
            "it, or get it from https://visualqa.org/download.html"
        )

    def summary(record: Record) -> tuple[int, ...]:
        check(record)
        return tuple(_number(record, column) for column in _COLUMNS)

    return RecordFile(path, workdir, f"vqav2-1-{kind}", summary, len(_COLUMNS), member)


def _number(record: Record, column: str) -> int:
    number = record.fields.get(column)
    if type(number) is not int or not 0 <= number < 2**63:
        raise ConfigError(
            f"{record.name}: expected {column!r} to be a whole number from 0, got "
            f"{number!r:.40}; mend the record or take it out"
        )
    return number
