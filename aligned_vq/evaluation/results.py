"""Results of an examination, and rows of a table."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.evaluation.bootstrap import Interval, count_difference, paired_difference
from aligned_vq.evaluation.usage import CodebookUsage

DIFFERENCE_TITLE = "accuracy difference to the unsplit model, points"
"""Column title of a difference in percentage points, with its paired 95 % interval."""
_DESCRIPTION = "description"
_COUNTS = ("images", "words_right", "words_asked")


class KindScore(NamedTuple):
    """Number of questions of one kind, and of correct answers to them."""

    questions: int
    right: int

    @property
    def share(self) -> float:
        """Accuracy, 0 to 1."""
        return self.right / self.questions


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Which of Q short questions were answered correctly, and how much of M descriptions.

    Raises:
        ValueError: the shapes do not match, or there are no questions or descriptions.
    """

    right: NDArray[np.bool_]
    """`[Q]`: whether greedy decoding gives exactly the expected answer."""
    kinds: tuple[str, ...]
    """Kind of each of the Q questions."""
    images: NDArray[np.int64]
    """`[Q]`: number of the question's image, below M."""
    words_right: NDArray[np.int64]
    """`[M]`: correctly predicted tokens of each description, given the expected tokens before."""
    words_asked: NDArray[np.int64]
    """`[M]`: tokens of each description, its end included."""

    def __post_init__(self) -> None:
        """Check that the shapes match."""
        if not self.right.shape == self.images.shape == (len(self.kinds),) or not self.kinds:
            raise ValueError(
                f"expected verdict, kind and image of at least one question, got {self.right.shape}"
                f", {len(self.kinds)} and {self.images.shape}"
            )
        if self.words_right.shape != self.words_asked.shape or not self.words_asked.sum():
            raise ValueError("expected words_right and words_asked of the same images, not empty")
        if not 0 <= int(self.images.min()) <= int(self.images.max()) < len(self.words_asked):
            raise ValueError(f"expected image numbers below {len(self.words_asked)}")

    @property
    def answers(self) -> float:
        """Accuracy on the short questions, 0 to 1."""
        return float(self.right.mean())

    @property
    def words(self) -> float:
        """Fraction of the descriptions' tokens that were predicted correctly."""
        return float(self.words_right.sum() / self.words_asked.sum())

    def by_kind(self) -> dict[str, KindScore]:
        """Scores by kind, in order of first appearance; then those of complete descriptions."""
        kinds = np.array(self.kinds)
        table = {
            kind: KindScore(int((kinds == kind).sum()), int(self.right[kinds == kind].sum()))
            for kind in dict.fromkeys(self.kinds)
        }
        # A description counts as correct only as a whole.
        complete = int((self.words_right == self.words_asked).sum())
        return table | {_DESCRIPTION: KindScore(len(self.words_asked), complete)}

    def answers_against(self, reference: Verdicts) -> Interval:
        """The difference of `answers` to the reference's, with its 95 % interval."""
        self._check_same_exam(reference)
        # Images are the clusters: answers about one image are correlated.
        return paired_difference(self.right, reference.right, self.images)

    def words_against(self, reference: Verdicts) -> Interval:
        """The difference of `words` to the reference's, with its 95 % interval."""
        self._check_same_exam(reference)
        return count_difference(self.words_right - reference.words_right, self.words_asked)

    def to_dict(self) -> dict[str, Any]:
        """The verdicts as JSON values; `right` is a string of 0 and 1."""
        arrays = {name: getattr(self, name).tolist() for name in _COUNTS}
        right = "".join("01"[int(verdict)] for verdict in self.right)
        return {"right": right, "kinds": list(self.kinds), **arrays}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Verdicts:
        """The verdicts in a result of `to_dict`."""
        arrays = {name: np.array(fields[name], np.int64) for name in _COUNTS}
        right = np.array([digit == "1" for digit in fields["right"]], np.bool_)
        return cls(right, tuple(fields["kinds"]), **arrays)

    def _check_same_exam(self, other: Verdicts) -> None:
        if (
            self.kinds != other.kinds
            or not np.array_equal(self.images, other.images)
            or not np.array_equal(self.words_asked, other.words_asked)
        ):
            raise ValueError("expected verdicts on the same questions: use one exam for both")


@dataclass(frozen=True, eq=False)
class Costs:
    """The costs of sending M images."""

    sent_bytes: NDArray[np.int64]
    """`[M]`: bytes sent from edge to cloud."""
    fixed_bytes: NDArray[np.int64] | None
    """`[M]`: bytes of the same indices in fixed coding; None without indices."""
    edge_ms: NDArray[np.float64]
    """`[M]`: time on the edge in milliseconds, from prepared pixels (or the image) to bytes."""


@dataclass(frozen=True)
class ExamRow:
    """The figures of one path."""

    name: str
    settings: Mapping[str, Any]
    answers: float
    """Accuracy on the short questions."""
    words: float
    """Fraction of the descriptions' tokens that were predicted correctly."""
    kinds: Mapping[str, KindScore]
    answers_difference: Interval
    """To the unsplit model, with its paired 95 % interval."""
    words_difference: Interval
    mean_bytes: float
    max_bytes: int
    fixed_bytes: float | None
    """Mean bytes of the same indices in fixed coding."""
    usage: tuple[CodebookUsage, ...]
    """Of each codebook; empty for paths without codebooks."""
    edge_ms: float
    """Median over images, which is robust against other load on the machine."""

    @classmethod
    def of(
        cls,
        name: str,
        settings: Mapping[str, Any],
        verdicts: Verdicts,
        reference: Verdicts,
        costs: Costs,
        usage: tuple[CodebookUsage, ...] = (),
    ) -> ExamRow:
        """The row of an examination; `reference` are the unsplit model's verdicts.

        Raises:
            ValueError: the verdicts are not of the same exam.
        """
        fixed = costs.fixed_bytes
        return cls(
            name=name,
            settings=settings,
            answers=verdicts.answers,
            words=verdicts.words,
            kinds=verdicts.by_kind(),
            answers_difference=verdicts.answers_against(reference),
            words_difference=verdicts.words_against(reference),
            mean_bytes=float(costs.sent_bytes.mean()),
            max_bytes=int(costs.sent_bytes.max()),
            fixed_bytes=None if fixed is None else float(fixed.mean()),
            usage=usage,
            edge_ms=float(np.median(costs.edge_ms)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The figures as JSON values; accuracies and differences are fractions."""
        return {
            "name": self.name,
            "settings": dict(self.settings),
            "questions": sum(s.questions for k, s in self.kinds.items() if k != _DESCRIPTION),
            "answers": round(self.answers, 5),
            "answers_difference": _rounded(self.answers_difference),
            "words": round(self.words, 5),
            "words_difference": _rounded(self.words_difference),
            "mean_bytes": round(self.mean_bytes, 1),
            "max_bytes": self.max_bytes,
            "fixed_bytes": None if self.fixed_bytes is None else round(self.fixed_bytes, 1),
            "codebooks": [usage.to_dict() for usage in self.usage],
            "edge_ms": round(self.edge_ms, 2),
            "kinds": {
                kind: {"questions": score.questions, "exact_match": round(score.share, 5)}
                for kind, score in self.kinds.items()
            },
        }

    def kinds_table(self, majority: Mapping[str, float]) -> str:
        """Accuracies by kind of question, next to those of always giving its commonest answer."""
        lines = [f"{'kind':<14}{'questions':>10}{'correct':>8}{'majority':>10}"]
        for kind, score in self.kinds.items():
            lines.append(
                f"{kind:<14}{score.questions:>10}{score.share:>8.1%}{majority[kind]:>10.1%}"
            )
        lines.append(f"{'all short':<24}{self.answers:>8.1%}{majority['short']:>10.1%}")
        return "\n".join(lines)

    def line(self) -> str:
        """The row as a line of the table below `table_head`.

        Codebooks are separated by slashes; a dash stands for a stage that covers no token.
        """
        fixed = "" if self.fixed_bytes is None else f"{self.fixed_bytes:,.0f}"
        perplexity = "/".join(f"{u.perplexity:.0f}" if u.covered else "-" for u in self.usage)
        dead = "/".join(f"{u.dead_share:.0%}" if u.covered else "-" for u in self.usage)
        return (
            f"{self.name:<30}{self.answers:>9.1%} {_points(self.answers_difference):<22}"
            f"{self.words:>12.1%} {_points(self.words_difference):<22}"
            f"{self.mean_bytes:>9,.0f}{self.max_bytes:>9,}{fixed:>9}"
            f"{self.edge_ms:>9.1f}  {perplexity:>14}{dead:>14}"
        ).rstrip()


def table_head() -> str:
    """The header of the table; differences have 95 % intervals."""
    return wrapped_header(
        ("", "<30"),
        ("accuracy", ">9"),
        ("", "<1"),
        (DIFFERENCE_TITLE, "<22"),
        ("description words correct", ">12"),
        ("", "<1"),
        ("difference to the unsplit model, points", "<22"),
        ("mean bytes", ">9"),
        ("max bytes", ">9"),
        ("fixed-coding bytes", ">9"),
        ("edge time, ms", ">9"),
        ("codebook perplexity", ">16"),
        ("dead entries", ">14"),
    )


def table(rows: Iterable[ExamRow]) -> str:
    """The header and all rows."""
    return "\n".join([table_head(), *(row.line() for row in rows)])


def wrapped_header(*columns: tuple[str, str]) -> str:
    """Column titles, wrapped to the width of their column and aligned at the bottom.

    Args:
        columns: title and format, such as `<30`: alignment and width in characters.
    """
    # One character less than the width, so that titles of adjacent columns do not touch.
    wrapped = [textwrap.wrap(title, max(1, int(form[1:]) - 1)) for title, form in columns]
    height = max(len(lines) for lines in wrapped)
    cells = [[""] * (height - len(lines)) + lines for lines in wrapped]
    forms = [form for _, form in columns]
    return "\n".join(
        "".join(f"{text:{form}}" for text, form in zip(line, forms, strict=True)).rstrip()
        for line in zip(*cells, strict=True)
    )


def _points(interval: Interval) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+6.1f} [{low:+.1f}, {high:+.1f}]"


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 5) for name, value in interval._asdict().items()}
