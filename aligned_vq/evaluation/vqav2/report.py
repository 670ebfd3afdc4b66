"""Rows of figures from answers, and the table that lays them beside what others published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from aligned_vq.evaluation.bootstrap import Interval, count_difference
from aligned_vq.evaluation.vqav2.answer_log import Answered
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
class Scored:
    """The official accuracy of a row's answers, as they stand in its result file."""

    accuracies: Accuracies
    gained: NDArray[np.float64]
    """`[M]`: summed accuracies of an image's questions, 0 to 1 each; images by id."""
    asked: NDArray[np.int64]
    """`[M]`: how many questions an image has."""

    def against(self, reference: Scored | None) -> Interval:
        """Mean accuracy less the reference's (None: 0) with its 95 % interval, 0 to 1."""
        taken = 0.0 if reference is None else reference.gained
        return count_difference(self.gained - taken, self.asked)


@dataclass(frozen=True)
class VqaRow:
    """One way of bringing pictures to the model, with everything measured of it."""

    name: str
    split: str
    questions: int
    images: int
    mean_bytes: float | None
    """Of payload bodies, over images; None where no payload was sent."""
    max_bytes: int | None
    results: Path
    """The result file."""
    accuracies: Accuracies | None
    """None where nobody outside has the answers."""
    interval: Interval | None
    """Of the overall accuracy, 0 to 1."""
    to_unsplit: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """JSON-able: accuracies in percent as the official code rounds them, intervals too."""
        figures = asdict(self) | {"measured": True, "results": str(self.results)}
        for name in ("interval", "to_unsplit"):
            value = getattr(self, name)
            figures[name] = None if value is None else _percent(value)
        return figures

    def line(self) -> str:
        """One line of the table that `table_head` begins."""
        sent = _right(self.mean_bytes, ",.0f", 9) + _right(self.max_bytes, ",", 8)
        start = f"{self.name:<32}{self.split:<17}{sent}"
        if self.accuracies is None or self.interval is None:
            return f"{start}  no answers here: {self.results}"
        around = f"[{100 * self.interval.low:.1f}, {100 * self.interval.high:.1f}]"
        types = "".join(_right(self.accuracies.answer_types.get(t), ".2f", 8) for t in _TYPES)
        difference = "" if self.to_unsplit is None else _points(self.to_unsplit)
        return f"{start}{self.accuracies.overall:>9.2f} {around:<14}{difference:>22}{types}"


def score(split: VqaSplit, answers: Mapping[int, Answered]) -> Scored:
    """Raises ConfigError if the annotations are missing or malformed."""
    rows: list[tuple[float, str, str]] = []
    images: list[int] = []
    for judged in split.judgements():
        answer = normalise(answers[judged.question_id].answer)
        accuracy = question_accuracy(answer, judged.given)
        rows.append((accuracy, judged.answer_type, judged.question_type))
        images.append(judged.image_id)
    _, image = np.unique(images, return_inverse=True)
    gained = np.bincount(image, weights=[row[0] for row in rows])
    asked = np.bincount(image).astype(np.int64)
    return Scored(accuracies(rows), gained.astype(np.float64), asked)


def row_of(
    name: str,
    split: VqaSplit,
    answers: Mapping[int, Answered],
    results: Path,
    scored: Scored | None,
    unsplit: Scored | None,
) -> VqaRow:
    """The figures of a row; `scored` None for a test split, `unsplit` None if it was not asked."""
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
        accuracies=None if scored is None else scored.accuracies,
        interval=None if scored is None else scored.against(None),
        to_unsplit=None if scored is None or unsplit is None else scored.against(unsplit),
    )


def table_head() -> str:
    """The line above the rows: accuracies in percent, differences in points, 95 % intervals."""
    return (
        f"{'measured here':<32}{'split':<17}{'mean B':>9}{'max B':>8}{'overall':>9} {'[95 %]':<14}"
        f"{'to unsplit':>22}" + "".join(f"{name:>8}" for name in _TYPES)
    )


def published_table(split: VqaSplit) -> str:
    """What others published, under a head that says so."""
    lines = [f"{'published by others, not measured here':<49}{'bytes':>9}{'':>8}{'overall':>9}"]
    for figure in PUBLISHED:
        sent = _right(figure.payload_bytes, ",.1f", 9)
        lines.append(
            f"{figure.name:<32}{figure.split:<17}{sent}{'':>8}{figure.accuracy:>9.2f} "
            f" {figure.source}"
        )
    if split.label not in {figure.split for figure in PUBLISHED}:
        lines.append(
            f"Their questions are not those of {split.label}: figures of different splits are not "
            "comparable."
        )
    return "\n".join(lines)


def published_dicts() -> list[dict[str, Any]]:
    """The same, JSON-able."""
    return [{**figure._asdict(), "measured": False} for figure in PUBLISHED]


def question_types_table(rows: Sequence[VqaRow]) -> str:
    """A line per question type, a column per row, in percent."""
    scored = [(row.name, row.accuracies) for row in rows if row.accuracies is not None]
    if not scored:
        return ""
    lines = [f"{'question type':<28}" + "".join(f"  {name:>16}" for name, _ in scored)]
    for kind in sorted(scored[0][1].question_types):
        figures = (own.question_types[kind] for _, own in scored)
        lines.append(f"{kind:<28}" + "".join(f"  {figure:>16.2f}" for figure in figures))
    return "\n".join(lines)


def upload_words(split: VqaSplit) -> str:
    """What to do with the result files of a test split."""
    if not split.is_whole:
        return "Result files hold the questions asked only: ask all of them before an upload."
    if split.ids_to_upload() is None:
        return (
            "The server wants an answer, if an empty one, to every question of test2015: put "
            "v2_OpenEnded_mscoco_test2015_questions.json beside those of test-dev2015 and run the "
            "same command again; nothing is asked twice."
        )
    phase = "Test-Dev" if split.split == "test-dev2015" else "Test-Standard"
    return f"Upload the result files at {UPLOAD}, phase {phase}: accuracies come from there."


def _percent(interval: Interval) -> dict[str, float]:
    return {name: round(100 * value, 3) for name, value in interval._asdict().items()}


def _points(interval: Interval) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.2f} [{low:+.1f}, {high:+.1f}]"


def _right(value: float | None, form: str, width: int) -> str:
    return f"{'' if value is None else format(value, form):>{width}}"
