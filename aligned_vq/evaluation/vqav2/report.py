"""Rows of accuracies and payload sizes, and tables of them next to published figures."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.evaluation.bootstrap import Interval, count_difference
from aligned_vq.evaluation.results import DIFFERENCE_TITLE, wrapped_header
from aligned_vq.evaluation.vqav2.answer_log import AnswerRecord
from aligned_vq.evaluation.vqav2.files import VqaSplit
from aligned_vq.evaluation.vqav2.metric import (
    Accuracies,
    accuracies,
    normalise,
    question_accuracy,
)
from aligned_vq.evaluation.vqav2.published import PUBLISHED

UPLOAD = "https://eval.ai/web/challenges/challenge-page/830"
_TYPES = ("yes/no", "number", "other")


@dataclass(frozen=True, eq=False)
class RowScores:
    """The official accuracy of the answers in a row's result file."""

    accuracies: Accuracies
    image_sums: NDArray[np.float64]
    """`[M]`: sum of the accuracies, 0 to 1, of each image's questions, ordered by image id."""
    image_questions: NDArray[np.int64]
    """`[M]`: number of questions of each image."""

    def difference(self, reference: RowScores | None) -> Interval:
        """Mean accuracy minus the reference's (None: 0), 0 to 1, with its 95 % interval."""
        reference_sums = 0.0 if reference is None else reference.image_sums
        return count_difference(self.image_sums - reference_sums, self.image_questions)


@dataclass(frozen=True)
class VqaRow:
    """The figures of one row: a way of sending images to the model."""

    name: str
    split: str
    questions: int
    images: int
    mean_bytes: float | None
    """Mean payload body over images; None if no payload was sent."""
    max_bytes: int | None
    results: Path
    """Path of the result file."""
    accuracies: Accuracies | None
    """None if the split's human answers are not public."""
    interval: Interval | None
    """The overall accuracy, 0 to 1."""
    to_unsplit: Interval | None
    """The difference of the overall accuracy to the unsplit model's, -1 to 1."""

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values, in percent."""
        figures = asdict(self) | {"measured": True, "results": str(self.results)}
        for name in ("interval", "to_unsplit"):
            value = getattr(self, name)
            figures[name] = None if value is None else _percent(value)
        return figures

    def line(self) -> str:
        """The row as a line of the table below `table_head`."""
        sent = _right(self.mean_bytes, ",.0f", 9) + _right(self.max_bytes, ",", 8)
        start = f"{self.name:<32}{self.split:<17}{sent}"
        if self.accuracies is None or self.interval is None:
            return f"{start}  no public answers, to upload: {self.results}"
        interval = f"[{100 * self.interval.low:.1f}, {100 * self.interval.high:.1f}]"
        types = "".join(_right(self.accuracies.answer_types.get(t), ".2f", 8) for t in _TYPES)
        difference = "" if self.to_unsplit is None else _points(self.to_unsplit)
        return f"{start}{self.accuracies.overall:>9.2f} {interval:<14}{difference:>22}{types}"


def score(split: VqaSplit, answers: Mapping[int, AnswerRecord]) -> RowScores:
    """The accuracies of a row's answers.

    Raises:
        ConfigError: the annotations are missing or malformed.
    """
    scores: list[tuple[float, str, str]] = []
    image_ids: list[int] = []
    for human in split.human_answers():
        answer = normalise(answers[human.question_id].answer)
        accuracy = question_accuracy(answer, human.answers)
        scores.append((accuracy, human.answer_type, human.question_type))
        image_ids.append(human.image_id)
    # `np.unique` sorts, so image 0 is the one with the smallest id.
    _, image = np.unique(image_ids, return_inverse=True)
    sums = np.bincount(image, weights=[accuracy for accuracy, *_ in scores])
    counts = np.bincount(image).astype(np.int64)
    return RowScores(accuracies(scores), sums.astype(np.float64), counts)


def row_of(
    name: str,
    split: VqaSplit,
    answers: Mapping[int, AnswerRecord],
    results: Path,
    scores: RowScores | None,
    unsplit: RowScores | None,
) -> VqaRow:
    """The figures of a row; `scores` is None for test splits, `unsplit` if it was not evaluated."""
    # All questions about an image share one payload.
    per_image = {answer.image_id: answer.payload_bytes for answer in answers.values()}
    sent = [size for size in per_image.values() if size is not None]
    return VqaRow(
        name=name,
        split=split.label,
        questions=len(answers),
        images=len(per_image),
        mean_bytes=round(float(np.mean(sent)), 1) if sent else None,
        max_bytes=max(sent) if sent else None,
        results=results,
        accuracies=None if scores is None else scores.accuracies,
        interval=None if scores is None else scores.difference(None),
        to_unsplit=None if scores is None or unsplit is None else scores.difference(unsplit),
    )


def table_head() -> str:
    """The header of the table: accuracies in percent, with 95 % intervals."""
    return wrapped_header(
        ("measured here", "<32"),
        ("split", "<17"),
        ("mean bytes", ">9"),
        ("max bytes", ">8"),
        ("overall", ">9"),
        ("", "<1"),
        ("95 % interval", "<14"),
        (DIFFERENCE_TITLE, ">22"),
        *((name, ">8") for name in _TYPES),
    )


def published_table(split: VqaSplit) -> str:
    """The published figures, with a header that says so."""
    lines = [f"{'published by others, not measured here':<49}{'bytes':>9}{'':>8}{'overall':>9}"]
    for figure in PUBLISHED:
        sent = _right(figure.payload_bytes, ",.1f", 9)
        lines.append(
            f"{figure.name:<32}{figure.split:<17}{sent}{'':>8}{figure.accuracy:>9.2f} "
            f" {figure.source}"
        )
    if split.label not in {figure.split for figure in PUBLISHED}:
        lines.append(
            f"These were measured on other questions than those of {split.label}: figures of "
            "different splits are not comparable."
        )
    return "\n".join(lines)


def published_dicts() -> list[dict[str, Any]]:
    """The published figures as JSON values."""
    return [{**figure._asdict(), "measured": False} for figure in PUBLISHED]


def question_types_table(rows: Sequence[VqaRow]) -> str:
    """Accuracies in percent, with a line per question type and a column per row."""
    columns = [(row.name, row.accuracies) for row in rows if row.accuracies is not None]
    if not columns:
        return ""
    lines = [f"{'question type':<28}" + "".join(f"  {name:>16}" for name, _ in columns)]
    for kind in sorted(columns[0][1].question_types):
        figures = (row_accuracies.question_types[kind] for _, row_accuracies in columns)
        lines.append(f"{kind:<28}" + "".join(f"  {figure:>16.2f}" for figure in figures))
    return "\n".join(lines)


def upload_instructions(split: VqaSplit) -> str:
    """How to obtain the accuracies of a test split."""
    if not split.is_whole:
        return "The result files are incomplete: answer all questions before an upload."
    if split.ids_to_upload() is None:
        return (
            "The evaluation server requires an answer, possibly empty, to every question of "
            "test2015: put v2_OpenEnded_mscoco_test2015_questions.json into the folder of "
            "test-dev2015's questions and run the same command again, which reuses all answers."
        )
    phase = "Test-Dev" if split.split == "test-dev2015" else "Test-Standard"
    return f"Upload the result files to {UPLOAD}, phase {phase}, to obtain their accuracies."


def _percent(interval: Interval) -> dict[str, float]:
    return {name: round(100 * value, 3) for name, value in interval._asdict().items()}


def _points(interval: Interval) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.2f} [{low:+.1f}, {high:+.1f}]"


def _right(value: float | None, form: str, width: int) -> str:
    return f"{'' if value is None else format(value, form):>{width}}"
