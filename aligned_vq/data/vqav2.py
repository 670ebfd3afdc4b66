"""VQAv2's images with questions and answers as training examples."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aligned_vq.data.examples import Example, QuestionAnswer
from aligned_vq.data.json_stream import Record
from aligned_vq.data.vqav2_files import (
    ANSWERED_SPLITS,
    IMAGE_ID,
    load_split_image,
    open_annotations,
    open_questions,
    order,
    rows_of_annotations,
)
from aligned_vq.errors import ConfigError

_ANSWER = "multiple_choice_answer"


class VQAv2:
    """One example per image, ordered by image id, with all of its questions in the file's order.

    The answer is `multiple_choice_answer`, the most frequent of ten. Both files are checked and
    indexed on first use, and not kept in memory; see `RecordFile`.

    Args:
        folder: With the two files and the image folder.
        split: One of `ANSWERED_SPLITS`.
        workdir: Folder for the indices.

    Raises:
        ConfigError: The split is unknown, a file is missing or malformed, or the two files do not
            match.
    """

    def __init__(self, folder: Path, split: str, workdir: Path) -> None:
        if split not in ANSWERED_SPLITS:
            raise ConfigError(
                f"expected a VQAv2 split with answers, {' or '.join(ANSWERED_SPLITS)}, got "
                f"{split!r}; write it after the '#'"
            )
        self._folder = folder
        self._split = split
        self._questions = open_questions(folder, split, workdir)
        self._annotations = open_annotations(folder, split, workdir, _ANSWER, _check)
        # Rows of corresponding questions and annotations, sorted by image: `_bounds` delimits the
        # questions of each image.
        rows = self._question_rows = order(self._questions, IMAGE_ID)
        self._annotation_rows = rows_of_annotations(self._questions, self._annotations)[rows]
        self._image_ids, starts = np.unique(
            self._questions.columns[rows, IMAGE_ID], return_index=True
        )
        self._bounds = np.append(starts, len(rows))

    def __len__(self) -> int:
        """Number of images."""
        return len(self._image_ids)

    def __getitem__(self, index: int) -> Example:
        """The image with the `index`-th smallest id; see `ExampleSource`."""
        index = range(len(self))[index]
        of_image = slice(self._bounds[index], self._bounds[index + 1])
        questions = self._questions.read(self._question_rows[of_image])
        annotations = self._annotations.read(self._annotation_rows[of_image])
        image_id = int(self._image_ids[index])
        image = load_split_image(self._folder, self._split, image_id, questions[0].name)
        pairs = (
            QuestionAnswer(question.fields["question"], annotation.fields[_ANSWER])
            for question, annotation in zip(questions, annotations, strict=True)
        )
        return Example(image, tuple(pairs))


def _check(record: Record) -> None:
    record.text(record.fields.get(_ANSWER), repr(_ANSWER))
