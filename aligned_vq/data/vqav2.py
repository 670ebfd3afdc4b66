"""VQAv2's pictures with questions and answers, as training reads them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from aligned_vq.data.examples import Example, QuestionAnswer
from aligned_vq.data.json_stream import Record
from aligned_vq.data.vqav2_files import (
    ANSWERED_SPLITS,
    IMAGE_ID,
    load_picture,
    open_annotations,
    open_questions,
    order,
    rows_of_annotations,
)
from aligned_vq.errors import ConfigError

_ANSWER = "multiple_choice_answer"


class VQAv2:
    """One example per image, ordered by image id, with all of its questions in the file's order.

    The answer is `multiple_choice_answer`, the most frequent of the ten people's. Both files are
    checked and indexed at the first start and never held: see `RecordFile`.

    Args:
        folder: What holds the two files and the image folder.
        split: One of `ANSWERED_SPLITS`.
        workdir: Where the indices are kept.

    Raises:
        ConfigError: There is no such split, a file is missing or malformed, or the two files do
            not go together.
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
        # Rows of both files, question by question, those of an image side by side.
        asked = self._asked = order(self._questions, IMAGE_ID)
        self._answered = rows_of_annotations(self._questions, self._annotations)[asked]
        self._image_ids, starts = np.unique(
            self._questions.columns[asked, IMAGE_ID], return_index=True
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
        image = load_picture(self._folder, self._split, image_id, questions[0].name)
        pairs = (
            QuestionAnswer(question.fields["question"], annotation.fields[_ANSWER])
            for question, annotation in zip(questions, annotations, strict=True)
        )
        return Example(image, tuple(pairs))


def _check(record: Record) -> None:
    record.text(record.fields.get(_ANSWER), repr(_ANSWER))
