"""What an examination found, and rows of figures that can be laid side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from aligned_vq.evaluation.bootstrap import Interval, count_difference, paired_difference
from aligned_vq.evaluation.usage import CodebookUsage

_DESCRIPTION = "description"


class KindScore(NamedTuple):
    """Questions of one kind, and how many were answered exactly."""

    questions: int
    right: int

    @property
    def share(self) -> float:
        """Right answers, 0 to 1."""
        return self.right / self.questions


@dataclass(frozen=True, eq=False)
class Verdicts:
    """Right and wrong on Q short questions and M descriptions, one per image.

    Raises:
        ValueError: the arrays do not belong together, or nothing was asked.
    """

    right: NDArray[np.bool_]
    """`[Q]`: greedy decoding gives exactly the expected answer."""
    kinds: tuple[str, ...]
    """Q names."""
    images: NDArray[np.int64]
    """`[Q]`: which of the M images a question is about."""
    words_right: NDArray[np.int64]
    """`[M]`: tokens of the description predicted right, each after the true ones before it."""
    words_asked: NDArray[np.int64]
    """`[M]`: tokens of the description, its end included."""

    def __post_init__(self) -> None:
        """Holds the arrays to one another."""
        if not self.right.shape == self.images.shape == (len(self.kinds),) or not self.kinds:
            raise ValueError(
                f"expected verdict, kind and image of at least one question, got {self.right.shape}"
                f", {len(self.kinds)} and {self.images.shape}"
            )
        if self.words_right.shape != self.words_asked.shape or not self.words_asked.sum():
            raise ValueError("expected words right and asked of the same images, and some")
        if not 0 <= int(self.images.min()) <= int(self.images.max()) < len(self.words_asked):
            raise ValueError(f"expected image numbers below {len(self.words_asked)}")

    @property
    def answers(self) -> float:
        """Share of the short questions answered exactly."""
        return float(self.right.mean())

    @property
    def words(self) -> float:
        """Share of the descriptions' tokens predicted right."""
        return float(self.words_right.sum() / self.words_asked.sum())

    def by_kind(self) -> dict[str, KindScore]:
        """Scores of every kind, in order of first appearance; whole descriptions last."""
        kinds = np.array(self.kinds)
        table = {
            kind: KindScore(int((kinds == kind).sum()), int(self.right[kinds == kind].sum()))
            for kind in dict.fromkeys(self.kinds)
        }
        whole = int((self.words_right == self.words_asked).sum())
        return table | {_DESCRIPTION: KindScore(len(self.words_asked), whole)}

    def answers_against(self, reference: Verdicts) -> Interval:
        """How many more short answers are right than the reference's, with its 95 % interval."""
        self._check_same_exam(reference)
        return paired_difference(self.right, reference.right, self.images)

    def words_against(self, reference: Verdicts) -> Interval:
        """The same for the words of descriptions."""
        self._check_same_exam(reference)
        return count_difference(self.words_right - reference.words_right, self.words_asked)

    def _check_same_exam(self, other: Verdicts) -> None:
        if (
            self.kinds != other.kinds
            or not np.array_equal(self.images, other.images)
            or not np.array_equal(self.words_asked, other.words_asked)
        ):
            raise ValueError("expected verdicts on the same questions: examine both on one exam")


@dataclass(frozen=True, eq=False)
class Costs:
    """What M images cost under a path."""

    sent_bytes: NDArray[np.int64]
    """`[M]`: what crossed."""
    fixed_bytes: NDArray[np.int64] | None
    """`[M]`: the same indices in fixed coding; None where there are no indices."""
    edge_ms: NDArray[np.float64]
    """`[M]`: milliseconds on the edge, from prepared pixels (or the picture) to bytes."""


@dataclass(frozen=True)
class ExamRow:
    """One way of sending images, with everything that is measured of it."""

    name: str
    settings: Mapping[str, Any]
    answers: float
    """Share of short questions answered exactly."""
    words: float
    """Share of descriptions' tokens predicted right."""
    kinds: Mapping[str, KindScore]
    answers_difference: Interval
    """To the unsplit model, with its paired 95 % interval."""
    words_difference: Interval
    mean_bytes: float
    max_bytes: int
    fixed_bytes: float | None
    """Mean of the same indices in fixed coding."""
    usage: tuple[CodebookUsage, ...]
    """Per codebook, empty for paths without any."""
    edge_ms: float
    """Median over images: a mean would tell of the machine's other work."""

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
        """A row of what one examination found; `reference` is the unsplit model's on the same exam.

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
        """JSON-able figures; shares and differences from 0 to 1."""
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
        """A line per kind of question, beside the share that its most frequent answer gets."""
        lines = [f"{'kind':<14}{'questions':>10}{'right':>8}{'majority':>10}"]
        for kind, score in self.kinds.items():
            lines.append(
                f"{kind:<14}{score.questions:>10}{score.share:>8.1%}{majority[kind]:>10.1%}"
            )
        lines.append(f"{'all short':<24}{self.answers:>8.1%}{majority['short']:>10.1%}")
        return "\n".join(lines)

    def line(self) -> str:
        """One line of the table that `table_head` begins.

        Codebooks are parted by slashes; a dash is one of a stage that covered nothing.
        """
        fixed = "" if self.fixed_bytes is None else f"{self.fixed_bytes:,.0f}"
        perplexity = "/".join(f"{u.perplexity:.0f}" if u.covered else "-" for u in self.usage)
        dead = "/".join(f"{u.dead_share:.0%}" if u.covered else "-" for u in self.usage)
        return (
            f"{self.name:<30}{self.answers:>8.1%} {_points(self.answers_difference):<22}"
            f"{self.words:>7.1%} {_points(self.words_difference):<22}"
            f"{self.mean_bytes:>9,.0f}{self.max_bytes:>9,}{fixed:>9}"
            f"{self.edge_ms:>9.1f}  {perplexity:>14}{dead:>14}"
        ).rstrip()


def table_head() -> str:
    """The line above the rows: differences to unsplit are in points, with 95 % intervals."""
    return (
        f"{'':<30}{'answers':>8} {'  to unsplit':<22}{'words':>7} {'  to unsplit':<22}"
        f"{'mean B':>9}{'max B':>9}{'fixed B':>9}{'edge ms':>9}  {'perplexity':>14}{'dead':>14}"
    )


def table(rows: Iterable[ExamRow]) -> str:
    """All rows under their head."""
    return "\n".join([table_head(), *(row.line() for row in rows)])


def _points(interval: Interval) -> str:
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+6.1f} [{low:+.1f}, {high:+.1f}]"


def _rounded(interval: Interval) -> dict[str, float]:
    return {name: round(value, 5) for name, value in interval._asdict().items()}
