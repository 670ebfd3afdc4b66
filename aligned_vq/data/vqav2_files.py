"""VQA-v2's official files: their names, and the matching of questions with annotations.

FOLDER/v2_OpenEnded_mscoco_train2014_questions.json
FOLDER/v2_mscoco_train2014_annotations.json
FOLDER/train2014/COCO_train2014_000000000009.jpg ...

Both test splits use the images of test2015; their annotations are not public.
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
"""Columns of both files' indices."""
_COLUMNS = ("question_id", "image_id")
_IMAGE_FOLDERS = {"test-dev2015": "test2015"}


def questions_path(folder: Path, split: str) -> Path:
    """Path of a split's questions."""
    return folder / f"v2_OpenEnded_mscoco_{split}_questions.json"


def annotations_path(folder: Path, split: str) -> Path:
    """Path of a split's annotations."""
    return folder / f"v2_mscoco_{split}_annotations.json"


def image_path(folder: Path, split: str, image_id: int) -> Path:
    """Path of one of a split's images."""
    name = _IMAGE_FOLDERS.get(split, split)
    return folder / name / f"COCO_{name}_{image_id:012d}.jpg"


def load_split_image(folder: Path, split: str, image_id: int, owner: str) -> Image.Image:
    """One of a split's images, upright RGB; `owner` starts error messages, see `open_image`.

    Raises:
        ConfigError: the file does not exist.
        InvalidInput: the file is damaged.
    """
    path = image_path(folder, split, image_id)
    return open_image(path, owner, f"unpack COCO's {path.parent.name}.zip into {folder}")


def open_questions(folder: Path, split: str, workdir: Path) -> RecordFile:
    """A split's questions, with their texts checked; the columns are question and image id.

    Raises:
        ConfigError: the file is missing or malformed.
    """

    def check(record: Record) -> None:
        record.text(record.fields.get("question"), "'question'")

    return _open(questions_path(folder, split), "questions", "question", check, workdir)


def open_annotations(
    folder: Path, split: str, workdir: Path, kind: str, check: Callable[[Record], object]
) -> RecordFile:
    """A split's annotations, with the same columns as the questions.

    Args:
        folder: with the files.
        split: one of `ANSWERED_SPLITS`.
        workdir: folder for the index.
        kind: identifies `check` in the index.
        check: raises ConfigError if an annotation lacks a field that the caller needs.

    Raises:
        ConfigError: the file is missing or malformed.
    """
    return _open(annotations_path(folder, split), "annotations", kind, check, workdir)


def rows_of_annotations(questions: RecordFile, annotations: RecordFile) -> Table:
    """For every question, in the file's order, the row of its annotation.

    Raises:
        ConfigError: the two files have different questions or images.
    """
    question_columns, annotation_columns = questions.columns, annotations.columns
    by_question = order(questions, QUESTION_ID)
    by_annotation = order(annotations, QUESTION_ID)
    if not np.array_equal(question_columns[by_question], annotation_columns[by_annotation]):
        single = np.setxor1d(question_columns[:, QUESTION_ID], annotation_columns[:, QUESTION_ID])
        raise ConfigError(
            f"expected the same questions about the same images in {questions.path} "
            f"({len(questions)} questions) and {annotations.path} ({len(annotations)}), but "
            f"{len(single)} ids are in one only{f', such as {single[0]}' if len(single) else ''}; "
            "take both from one release"
        )
    rows = np.empty(len(question_columns), np.int64)
    # Both orders sort by id, so equal positions are the same question.
    rows[by_question] = by_annotation
    return rows


def order(records: RecordFile, column: int) -> Table:
    """Rows sorted by a column; ties in the file's order."""
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
    # Columns are int64; bool is a subclass of int.
    if type(number) is not int or not 0 <= number < 2**63:
        raise ConfigError(
            f"{record.name}: expected {column!r} to be a whole number from 0, got "
            f"{number!r:.40}; correct or remove the record"
        )
    return number
