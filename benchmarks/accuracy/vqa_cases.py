"""Seeded cases for VQA-v2's accuracy: annotators' answers and predictions that try every rule."""

# ruff: noqa: RUF001 (digits and quotes of other scripts are intended)

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aligned_vq.evaluation.vqav2.metric import CONTRACTIONS

ANNOTATORS = 10
ANSWER_TYPES = ("yes/no", "number", "other")
QUESTION_TYPES = ("what color is the", "how many", "is there a", "none of the above")
_MARKS = ";/[]\"{}()=+\\_-><@`,?!.:'$%&*#^|~"
_SPACES = (" ", "  ", "\t", "\n", "\r", "\u00a0", "\u3000", "\x1f")
_NUMBER_WORDS = "zero one two three four five six seven eight nine ten none eleven twenty"
_NUMBERS = tuple(_NUMBER_WORDS.split())
_PLAIN_WORDS = """
    yes no red blue green white black brown gray grey orange cat dog man woman tennis pizza skis
    left right frisbee water grass wood stop sign bus train winter sunny nothing unknown kitchen
    baseball surfing umbrella phone plate laptop wii nike apple banana a an the of in on it is
"""
_PLAIN = tuple(_PLAIN_WORDS.split())
_ODD_ANSWERS = """
    t-shirt|black/white|10:30|12:05 pm|1,000|1,000,000|3.5|.5|5.|1. 5|U.S.A.|U.S.A|$5|50%|$1,000.50
    3'|5"|5'11"|rock 'n' roll|#1|left , right|red, white|red,white|2,|,2|1,a|a,1|1 ,2|1, 2|-1|- 1
    ...|a.b.c.d.e.|?|!|-|,|a|the|an the a|A|THE|none|None.|NONE|no one|café|naïve|日本
    日本。|ÅNGSTRÖM|İstanbul|straße|ΣΊΣΥΦΟΣ|½|x²|😀|١٢|١,٢|１,０００|３.５|٣.٥|²,³|1,²|x—y|x–y|“quoted”|it’s|don’t
    Im|Ive|I'dve|Id've|lets|let's|shes|she's|somebody'd|somebodyd|aren't|can't|it's|its|'s|dont know
    dont-know|i dont know|DONT|don't!|yes.|Yes!|YES|yes?|yes it is|yes, it is|yes,it is|no.|no ,
    ( no )|[red]|{red}|<red>|red@home|red=blue|red+blue|a+b|a_b|`red`|back\\
"""
_ODD = (
    *(odd for line in _ODD_ANSWERS.split("\n") for odd in line.strip(" ").split("|")),
    # The official code removes at most 32 full stops: it passes `re.UNICODE` as a count.
    *("", " ", "\t", "\n", " - ", "." * 31, "." * 32, "." * 33, "." * 40 + "5", "a.b.c." * 12),
)
# Wrong spellings and right ones.
_CONTRACTIONS = (*CONTRACTIONS, *CONTRACTIONS.values())


class Case(NamedTuple):
    """A prediction and the annotators' answers to a question, with the types of both."""

    prediction: str
    answers: tuple[str, ...]
    answer_type: str
    question_type: str


def cases(count: int, seed: int) -> Iterator[Case]:
    """`count` cases, the same ones for the same seed."""
    draw = random.Random(seed)
    for _ in range(count):
        answers = _answers(draw)
        yield Case(
            _prediction(draw, answers),
            answers,
            draw.choice(ANSWER_TYPES),
            draw.choice(QUESTION_TYPES),
        )


def _answers(draw: random.Random) -> tuple[str, ...]:
    """The answers of ten annotators: identical, identical except for spaces, or several answers."""
    kind = draw.random()
    first = _answer(draw)
    if kind < 0.15:
        return (first,) * ANNOTATORS
    if kind < 0.22:  # identical after stripping
        return tuple(draw.choice(("", " ", "\t", "\n")) + first for _ in range(ANNOTATORS))
    distinct = [first, *(_answer(draw) for _ in range(draw.randrange(1, 4)))]
    weights = [draw.choice((1, 2, 4, 8)) for _ in distinct]
    restyled_share = 0.0 if draw.random() < 0.3 else 0.3
    return tuple(
        _restyled(draw, answer) if draw.random() < restyled_share else answer
        for answer in draw.choices(distinct, weights, k=ANNOTATORS)
    )


def _prediction(draw: random.Random, answers: Sequence[str]) -> str:
    kind = draw.random()
    chosen = draw.choice(answers)
    if kind < 0.4:
        return chosen
    if kind < 0.85:
        return _restyled(draw, chosen)
    return _answer(draw)


def _answer(draw: random.Random) -> str:
    kind = draw.random()
    if kind < 0.35:
        return " ".join(draw.choices(_PLAIN, k=draw.choice((1, 1, 1, 2, 3))))
    if kind < 0.45:
        return draw.choice((str(draw.randrange(30)), draw.choice(_NUMBERS)))
    if kind < 0.7:
        return draw.choice(_ODD)
    if kind < 0.85:
        return " ".join(draw.sample((draw.choice(_CONTRACTIONS), draw.choice(_PLAIN)), k=2))
    # Few letters, so that short texts often hit the rules for digits and punctuation.
    letters = "ab1 2.,'" + draw.choice(_MARKS) * 2
    return "".join(draw.choices(letters, k=draw.randrange(1, 9)))


def _restyled(draw: random.Random, text: str) -> str:
    """The answer written differently, mostly in ways that the metric normalises."""
    changes: tuple[Callable[[str], str], ...] = (
        str.upper,
        str.capitalize,
        str.title,
        lambda t: t + draw.choice((".", "!", "?", " .", ",", ";", "..", " !")),
        lambda t: draw.choice(("a ", "the ", "an ", "A ", "The ")) + t,
        lambda t: draw.choice(_SPACES) + t + draw.choice(_SPACES),
        lambda t: t.replace(" ", draw.choice(_SPACES)),
        lambda t: t.replace(" ", draw.choice(("-", "/", "_", ", ", ","))),
        lambda t: t.replace("'", ""),
        lambda t: " ".join(_swap_digit(word) for word in t.split(" ")),
        lambda t: _with_mark(draw, t),
        lambda t: _with_mark(draw, t),
    )
    for _ in range(draw.choice((1, 1, 2))):
        text = draw.choice(changes)(text)
    return text


def _with_mark(draw: random.Random, text: str) -> str:
    """The text with a punctuation mark at a random place."""
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(_MARKS) + text[place:]


def _swap_digit(word: str) -> str:
    """A number below 11 as digits instead of as a word, or the other way round; else the word."""
    if word in _NUMBERS[:11]:
        return str(_NUMBERS.index(word))
    if word.isascii() and word.isdecimal() and int(word) < 11:
        return _NUMBERS[int(word)]
    return word
