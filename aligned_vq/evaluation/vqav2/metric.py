"""VQA-v2's accuracy, to the last digit of the official evaluation code.

An answer is right to the degree that people gave it: each of the ten is left out in turn, the
answer scores a third for every match among the other nine, at most 1, and the ten scores are
averaged. So 0, 1, 2, 3 and 4 or more matches give 0, 0.3, 0.6, 0.9 and 1.

The official code (https://github.com/GT-Vision-Lab/VQA) has habits that a figure depends on: where
all ten people wrote the same, nothing is normalised and an answer must match to the letter;
punctuation is looked for in the text as it came; and a full stop goes unless a digit follows.
Digits are Unicode's, as Python 3 reads its patterns.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

_MARKS = ';/[]"{}()=+\\_-><@`,?!'
_THOUSANDS = re.compile(r"\d,\d")
_FULL_STOP = re.compile(r"\.(?!\d)")
_MOST_STOPS = 32
"""Full stops that are taken away: the official code passes a flag where a count belongs."""
_ARTICLES = ("a", "an", "the")
_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_DIGITS = {word: str(number) for number, word in enumerate(_NUMBERS)} | {"none": "0"}
# Each of these is known with one of its apostrophes left out, whichever.
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
    word[:place] + word[place + 1 :]: word
    for word in _CONTRACTED.split()
    for place, letter in enumerate(word)
    if letter == "'"
} | {"somebody'd": "somebodyd"}  # the one that loses an apostrophe
"""What the official code replaces, and by what; without words that it replaces by themselves."""


def normalise(text: str) -> str:
    """An answer as it is compared: one line, plain punctuation, lower case, digits, no articles."""
    words = (_DIGITS.get(word, word) for word in _plain(_one_line(text)).lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def question_accuracy(answer: str, given: Sequence[str]) -> float:
    """The accuracy of one answer, 0 to 1, against what people gave (ten texts in VQA-v2)."""
    answer, given = _one_line(answer), [_one_line(text) for text in given]
    if len(set(given)) > 1:
        answer, given = normalise(answer), [normalise(text) for text in given]
    matches = [text == answer for text in given]
    total = sum(matches)
    # Added up one by one: sums of thirds round differently from their products.
    return sum(min(1.0, (total - own) / 3) for own in matches) / len(given)


@dataclass(frozen=True)
class Accuracies:
    """Percentages with two decimals, as the official code rounds and prints them."""

    overall: float
    answer_types: Mapping[str, float]
    """By answer type: yes/no, number, other."""
    question_types: Mapping[str, float]
    """By the words that a question begins with, in order of first appearance."""


def accuracies(scores: Iterable[tuple[float, str, str]]) -> Accuracies:
    """Of accuracy, answer type and question type of every question, in the annotations' order.

    Raises:
        ValueError: there are none.
    """
    every: list[float] = []
    answer_types: dict[str, list[float]] = {}
    question_types: dict[str, list[float]] = {}
    for score, answer_type, question_type in scores:
        every.append(score)
        answer_types.setdefault(answer_type, []).append(score)
        question_types.setdefault(question_type, []).append(score)
    if not every:
        raise ValueError("expected scores of at least one question, got none")
    return Accuracies(
        percentage(every),
        {name: percentage(own) for name, own in answer_types.items()},
        {name: percentage(own) for name, own in question_types.items()},
    )


def percentage(scores: Sequence[float]) -> float:
    """Mean of accuracies from 0 to 1, in percent with two decimals."""
    return round(100 * sum(scores) / len(scores), 2)


def _one_line(text: str) -> str:
    return text.replace("\n", " ").replace("\t", " ").strip()


def _plain(text: str) -> str:
    """Without punctuation: beside a space, or near a thousands' comma, a mark vanishes; elsewhere
    it parts two words."""
    joined = _THOUSANDS.search(text) is not None
    marks = {
        ord(mark): None if joined or f"{mark} " in text or f" {mark}" in text else " "
        for mark in _MARKS
    }
    return _FULL_STOP.sub("", text.translate(marks), count=_MOST_STOPS)
