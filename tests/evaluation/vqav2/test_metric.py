"""VQA-v2's accuracy, against known answers and against the official code's own."""

from __future__ import annotations

import json
import lzma
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.evaluation.vqav2.metric import (
    CONTRACTIONS,
    accuracies,
    normalise,
    percentage,
    question_accuracy,
)
from benchmarks.accuracy.vqa_cases import Case, cases

OFFICIAL = Path(__file__).parent / "data" / "vqa_official.json.xz"


@pytest.fixture(scope="module")
def official() -> Any:
    """Cases of `benchmarks.accuracy.vqa_official --write`, and what the official code says."""
    return json.loads(lzma.decompress(OFFICIAL.read_bytes()))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The cat.", "cat"),
        ("Two", "2"),
        ("A dog, and a cat", "dog and cat"),
        ("1,000", "1000"),
        ("3.5", "3.5"),
        ("dont", "don't"),
        ("Yes!", "yes"),
        ("it's", "it's"),
        ("t-shirt", "t shirt"),
        ("black/white", "black white"),
        ("10:30", "10:30"),
        ("none", "0"),
        ("U.S.A.", "usa"),
        ("left , right", "left right"),
        ("$5 / 50%", "$5 50%"),
        ("a\tred\n star ", "red star"),
        ("." * 33, "."),
    ],
)
def test_answers_as_they_are_compared(text: str, expected: str) -> None:
    assert normalise(text) == expected


@pytest.mark.parametrize(("matches", "expected"), list(enumerate([0, 0.3, 0.6, 0.9, *[1.0] * 7])))
def test_accuracy_is_a_step_for_every_match_up_to_four(matches: int, expected: float) -> None:
    given = ["red"] * matches + ["blue"] * (10 - matches)
    assert question_accuracy("red", given) == pytest.approx(expected)
    # Punctuation and case count only where all people agree.
    assert question_accuracy("Red.", [*given[:-1], "green"]) == pytest.approx(expected)


def test_where_all_people_agree_an_answer_must_match_to_the_letter() -> None:
    assert question_accuracy("Yes", ["yes"] * 10) == 0
    assert question_accuracy(" yes\n", ["yes"] * 10) == 1
    assert question_accuracy("Yes", ["yes"] * 9 + ["yes."]) == 1


def test_ten_thousand_official_scores(official: Any) -> None:
    rows = official["cases"]
    assert len(rows) == 10_000
    scores = [question_accuracy(prediction, given) for prediction, given, *_ in rows]
    assert [round(100 * score, 2) for score in scores] == [row[4] for row in rows]
    assert [normalise(row[0]) for row in rows] == [row[5] for row in rows]
    found = accuracies(
        (score, answer_type, question_type)
        for score, (_, _, answer_type, question_type, *_) in zip(scores, rows, strict=True)
    )
    assert found.overall == official["accuracy"]["overall"]
    assert found.answer_types == official["accuracy"]["perAnswerType"]
    assert found.question_types == official["accuracy"]["perQuestionType"]


def test_the_official_cases_try_everything(official: Any) -> None:
    rows = official["cases"]
    again = [Case(p, tuple(given), *types) for p, given, *types, _, _ in rows]
    assert again == list(cases(len(rows), seed=1))
    scores = [row[4] for row in rows]
    assert all(scores.count(score) > 300 for score in (0, 30, 60, 90, 100))
    assert sum(len(set(row[1])) == 1 for row in rows) > 1000
    words = {word for row in rows for word in row[5].split()}
    assert words >= set(CONTRACTIONS.values())
    written = " ".join(row[0] for row in rows).lower()
    assert all(key in written for key in CONTRACTIONS)


def test_nothing_has_no_accuracy() -> None:
    with pytest.raises(ValueError, match="at least one question"):
        accuracies([])
    assert percentage([1, 0, 0]) == 33.33
