"""VQA-v2's accuracy, equal to that of the official evaluation code to the last digit.

Each of the ten human answers is left out in turn; the model's answer scores 1/3 for every match
among the other nine, at most 1; and the ten scores are averaged. So 0, 1, 2, 3 and 4 or more
matches give 0, 0.3, 0.6, 0.9 and 1.

Peculiarities of the official code (https://github.com/GT-Vision-Lab/VQA) that affect figures are
reproduced. If all ten people agree, nothing is normalised and an answer must match exactly. A rule
for punctuation depends on the original text, not on the text after earlier replacements. A full
stop is removed unless a digit follows. Digits are those of Unicode.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MAX_FULL_STOPS = 32
"""Number of full stops that are removed: the official code passes `re.UNICODE` as the count."""
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
# Spellings of these that lack one of the apostrophes are replaced.
_CONTRACTED = """
    'ow's'at 'twas ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't
    hadn't've hasn't haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am
    might've mightn't mightn't've must've mustn't needn't not've o'clock oughtn't shan't she'd've
    should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've
    someone'll someone's something'd something'd've something'll that's there'd there'd've there're
    there's they'd they'd've they'll they're they've wasn't we'd've we've weren't what'll what're
    what's what've when's where'd where's where've who'd who'd've who'll who's who've why'll why're
    why's won't would've wouldn't wouldn't've y'all y'all'd've y'all'll you'd you'd've you'll
    you're you've
"""
CONTRACTIONS = {
    word[:position] + word[position + 1 :]: word
    for word in _CONTRACTED.split()
    for position, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # in the official code the only one the other way round
"""The replacements of the official code, without those of words by themselves."""


def normalise(text: str) -> str:
    """An answer in one line, without punctuation and articles, in lower case, with digits."""
    words = (
        _DIGITS.get(word, word) for word in _remove_punctuation(_one_line(text)).lower().split()
    )
    # In the official order: digits, articles, contractions.
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def question_accuracy(answer: str, human_answers: Sequence[str]) -> float:
    """The accuracy of one answer, 0 to 1, given the human answers (ten in VQA-v2)."""
    answer, human_answers = _one_line(answer), [_one_line(text) for text in human_answers]
    if len(set(human_answers)) > 1:
        answer, human_answers = normalise(answer), [normalise(text) for text in human_answers]
    matches = [text == answer for text in human_answers]
    total = sum(matches)
    # Added one by one, as in the official code: a product of thirds would be rounded differently.
    return sum(min(1.0, (total - match) / 3) for match in matches) / len(human_answers)


@dataclass(frozen=True)
class Accuracies:
    """Percentages with two decimals, rounded as in the official code."""

    overall: float
    answer_types: Mapping[str, float]
    """By answer type: yes/no, number, other."""
    question_types: Mapping[str, float]
    """By the first words of a question, in order of first appearance."""


def accuracies(scores: Iterable[tuple[float, str, str]]) -> Accuracies:
    """The mean accuracies of questions.

    Args:
        scores: accuracy, answer type and question type of each, in the annotations' order.

    Raises:
        ValueError: there are no questions.
    """
    overall: list[float] = []
    answer_types: dict[str, list[float]] = {}
    question_types: dict[str, list[float]] = {}
    for score, answer_type, question_type in scores:
        overall.append(score)
        answer_types.setdefault(answer_type, []).append(score)
        question_types.setdefault(question_type, []).append(score)
    if not overall:
        raise ValueError("expected scores of at least one question, got none")
    return Accuracies(
        percentage(overall),
        {name: percentage(of_type) for name, of_type in answer_types.items()},
        {name: percentage(of_type) for name, of_type in question_types.items()},
    )


def percentage(scores: Sequence[float]) -> float:
    """The mean of accuracies from 0 to 1, in percent with two decimals."""
    return round(100 * sum(scores) / len(scores), 2)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _remove_punctuation(text: str) -> str:
    """The text without punctuation.

    A mark is removed if it is next to a space somewhere in the text, or if the text has a thousands
    separator; else it is replaced by a space.
    """
    has_thousands = _THOUSANDS.search(text) is not None
    # `translate` deletes a character that maps to None.
    replacements = {
        ord(mark): None if has_thousands or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _MARKS
    }
    return _FULL_STOP.sub("", text.translate(replacements), count=_MAX_FULL_STOPS)
