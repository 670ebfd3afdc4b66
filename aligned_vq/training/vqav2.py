"""VQAv2 from its official files: questions, annotations and COCO's image folder.

FOLDER/v2_OpenEnded_mscoco_train2014_questions.json
FOLDER/v2_mscoco_train2014_annotations.json
FOLDER/train2014/COCO_train2014_000000000009.jpg ...
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np

from aligned_vq.errors import ConfigError
from aligned_vq.training.examples import Example, QuestionAnswer
from aligned_vq.training.json_stream import Record
from aligned_vq.training.pictures import open_picture
from aligned_vq.training.record_file import RecordFile, Table

SPLITS = ("train2014", "val2014")
_QUESTION, _IMAGE = range(2)
_COLUMNS = ("question_id", "image_id")


class VQAv2:
    """One example per image, ordered by image id, with all of its questions in the file's order.

    The answer is `multiple_choice_answer`, the most frequent of the ten people's. Both files are
    checked and indexed at the first start and never held: see `RecordFile`.

    Args:
        folder: What holds the two files and the image folder.
        split: One of `SPLITS`.
        workdir: Where the indices are kept.

    Raises:
        ConfigError: There is no such split, a file is missing or malformed, or the two files do
            not go together.
    """

    def __init__(self, folder: Path, split: str, workdir: Path) -> None:
        if split not in SPLITS:
            raise ConfigError(
                f"expected a VQAv2 split with answers, {' or '.join(SPLITS)}, got {split!r}; "
                "write it after the '#'"
            )
        self._folder = folder
        self._split = split
        self._questions = _open(
            folder / f"v2_OpenEnded_mscoco_{split}_questions.json", "questions", "question", workdir
        )
        self._annotations = _open(
            folder / f"v2_mscoco_{split}_annotations.json",
            "annotations",
            "multiple_choice_answer",
            workdir,
        )
        # Rows of both files, question by question, those of an image side by side.
        asked = self._asked = _order(self._questions, _IMAGE)
        self._answered = self._rows_of_answers()[asked]
        self._image_ids, starts = np.unique(
            self._questions.columns[asked, _IMAGE], return_index=True
        )
        self._bounds = np.append(starts, len(asked))

    def __len__(self) -> int:
        """How many images are asked about."""
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Example:
        """The image with the `index`-th smallest id; see `ExampleSource`."""
        index = range(len(self))[index]
        own = slice(self._bounds[index], self._bounds[index + 1])
        questions = self._questions.read(self._asked[own])
        annotations = self._annotations.read(self._answered[own])
        image_id = int(self._image_ids[index])
        path = self._folder / self._split / f"COCO_{self._split}_{image_id:012d}.jpg"
        remedy = f"unpack COCO's {self._split}.zip into {self._folder}"
        image = open_picture(path, questions[0].name, remedy)
        pairs = (
            QuestionAnswer(question.fields["question"], annotation.fields["multiple_choice_answer"])
            for question, annotation in zip(questions, annotations, strict=True)
        )
        return Example(image, tuple(pairs))

    def _rows_of_answers(self) -> Table:
        """For every question, in the file's order, the row of its annotation."""
        asked, answered = self._questions.columns, self._annotations.columns
        ask, answer = _order(self._questions, _QUESTION), _order(self._annotations, _QUESTION)
        if not np.array_equal(asked[ask], answered[answer]):
            lone = np.setxor1d(asked[:, _QUESTION], answered[:, _QUESTION])
            raise ConfigError(
                f"expected the same questions about the same images in {self._questions.path} "
                f"({len(asked)} questions) and {self._annotations.path} ({len(answered)}), but "
                f"{len(lone)} ids are in one only{f', such as {lone[0]}' if len(lone) else ''}; "
                "take both from one release"
            )
        rows = np.empty(len(asked), np.int64)
        rows[ask] = answer
        return rows


def _open(path: Path, member: str, field: str, workdir: Path) -> RecordFile:
    if not path.is_file():
        raise ConfigError(
            f"expected VQAv2's {member} at {path}, found no such file; name the folder that holds "
            "it, or get it from https://visualqa.org/download.html"
        )
    summary = partial(_summary, field=field)
    return RecordFile(path, workdir, f"vqav2-1-{field}", summary, len(_COLUMNS), member)


def _summary(record: Record, field: str) -> tuple[int, ...]:
    record.text(record.fields.get(field), repr(field))
    numbers: list[int] = []
    for column in _COLUMNS:
        number = record.fields.get(column)
        if type(number) is not int or not 0 <= number < 2**63:
            raise ConfigError(
                f"{record.name}: expected {column!r} to be a whole number from 0, got "
                f"{number!r:.40}; mend the record or take it out"
            )
        numbers.append(number)
    return tuple(numbers)


def _order(records: RecordFile, column: int) -> Table:
    """Rows sorted by a column; where it ties, as in the file."""
    return np.argsort(records.columns[:, column], kind="stable")
