"""Bookkeeping of verdicts, and rows."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from aligned_vq.evaluation.results import Costs, ExamRow, Verdicts, table
from aligned_vq.evaluation.usage import CodebookUsage

VERDICTS = Verdicts(
    right=np.array([True, False, True, True]),
    kinds=("colour", "count", "colour", "size"),
    images=np.array([0, 0, 1, 2]),
    words_right=np.array([5, 8, 0]),
    words_asked=np.array([10, 8, 2]),
)
PERFECT = replace(VERDICTS, right=np.ones(4, np.bool_), words_right=VERDICTS.words_asked)
COSTS = Costs(np.array([100, 300, 101]), np.array([400, 400, 402]), np.array([3.0, 90.0, 2.0]))
USAGE = (CodebookUsage(0, 0, 64, 16, 1.0, 32.0), CodebookUsage(1, 0, 32, 32, 0.0, 0.0))


def test_shares_and_kinds() -> None:
    assert VERDICTS.answers == 0.75
    assert VERDICTS.words == 13 / 20
    kinds = VERDICTS.by_kind()
    assert list(kinds) == ["colour", "count", "size", "description"]
    assert kinds["colour"] == (2, 2)
    assert kinds["count"] == (1, 0)
    assert kinds["description"] == (3, 1)
    assert kinds["description"].share == pytest.approx(1 / 3)


def test_differences_are_to_the_reference() -> None:
    answers, words = VERDICTS.answers_against(PERFECT), VERDICTS.words_against(PERFECT)
    assert answers.mean == -0.25
    assert answers.low <= answers.mean <= answers.high <= 0
    assert words.mean == pytest.approx(-7 / 20)
    assert words.low < words.mean < words.high
    assert VERDICTS.answers_against(VERDICTS) == (0, 0, 0)


@pytest.mark.parametrize(
    "other",
    [
        replace(VERDICTS, kinds=("colour", "count", "shape", "size")),
        replace(VERDICTS, images=np.array([0, 1, 1, 2])),
        replace(VERDICTS, words_asked=np.array([10, 9, 2])),
    ],
)
def test_another_exam_is_no_reference(other: Verdicts) -> None:
    with pytest.raises(ValueError, match="one exam"):
        VERDICTS.answers_against(other)
    with pytest.raises(ValueError, match="one exam"):
        VERDICTS.words_against(other)


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    with pytest.raises(ValueError, match="verdict, kind and image"):
        replace(VERDICTS, kinds=("colour",))
    with pytest.raises(ValueError, match="image numbers below 3"):
        replace(VERDICTS, images=np.array([0, 0, 1, 3]))
    with pytest.raises(ValueError, match="words"):
        replace(VERDICTS, words_right=np.array([1, 2]))


def test_a_row_holds_every_figure_and_is_json() -> None:
    row = ExamRow.of("small", {"cut": "ln2@0"}, VERDICTS, PERFECT, COSTS, USAGE)
    assert (row.mean_bytes, row.max_bytes) == (167.0, 300)
    assert row.fixed_bytes == pytest.approx(1202 / 3)
    assert row.edge_ms == 3.0
    figures = json.loads(json.dumps(row.to_dict()))
    assert figures["questions"] == 4
    assert figures["answers_difference"]["mean"] == -0.25
    assert figures["codebooks"][1]["dead_share"] == 1.0
    assert figures["kinds"]["description"] == {"questions": 3, "exact_match": 0.33333}
    assert figures["settings"] == {"cut": "ln2@0"}


def test_the_table_lines_up() -> None:
    rows = [
        ExamRow.of("unsplit", {}, PERFECT, PERFECT, replace(COSTS, fixed_bytes=None)),
        ExamRow.of("small", {}, VERDICTS, PERFECT, COSTS, USAGE),
    ]
    *_, head, first, second = table(rows).splitlines()
    assert first.split()[:2] == ["unsplit", "100.0%"]
    assert second.endswith("25%/-")
    assert second.index("-25.0") == first.index("+0.0") - 1
    assert head.index("time, ms") + len("time, ms") == second.index("  ", second.index("3.0"))
