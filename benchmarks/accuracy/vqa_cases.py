"""Seeded questions, people's answers and predictions that try every rule of VQA-v2's accuracy."""

# ruff: noqa: RUF001 (digits and quotes of other scripts are meant)

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from aligned_vq.evaluation.vqav2.metric import CONTRACTIONS

PEOPLE = 10
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
    *("", " ", "\t", "\n", " - ", "." * 31, "." * 32, "." * 33, "." * 40 + "5", "a.b.c." * 12),
)
_KNOWN = (*CONTRACTIONS, *CONTRACTIONS.values())


class Case(NamedTuple):
    """A question as the metric sees it."""

    prediction: str
    given: tuple[str, ...]
    answer_type: str
    question_type: str


def cases(count: int, seed: int) -> Iterator[Case]:
    """So many cases; the same seed gives the same ones."""
    draw = random.Random(seed)
    for _ in range(count):
        given = _given(draw)
        yield Case(
            _prediction(draw, given),
            given,
            draw.choice(ANSWER_TYPES),
            draw.choice(QUESTION_TYPES),
        )


def _given(draw: random.Random) -> tuple[str, ...]:
    """What ten people wrote: all the same, the same but for how it looks, or of several minds."""
    kind = draw.random()
    first = _answer(draw)
    if kind < 0.15:
        return (first,) * PEOPLE
    if kind < 0.22:  # the same once the space around it is gone
        return tuple(draw.choice(("", " ", "\t", "\n")) + first for _ in range(PEOPLE))
    minds = [first, *(_answer(draw) for _ in range(draw.randrange(1, 4)))]
    weights = [draw.choice((1, 2, 4, 8)) for _ in minds]
    looks = 0.0 if draw.random() < 0.3 else 0.3
    return tuple(
        _restyled(draw, mind) if draw.random() < looks else mind
        for mind in draw.choices(minds, weights, k=PEOPLE)
    )


def _prediction(draw: random.Random, given: Sequence[str]) -> str:
    kind = draw.random()
    chosen = draw.choice(given)
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
        return " ".join(draw.sample((draw.choice(_KNOWN), draw.choice(_PLAIN)), k=2))
    letters = "ab1 2.,'" + draw.choice(_MARKS) * 2
    return "".join(draw.choices(letters, k=draw.randrange(1, 9)))


def _restyled(draw: random.Random, text: str) -> str:
    """The same answer as somebody else might have written it; mostly, the metric sees through."""
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
        lambda t: " ".join(_spelled(word) for word in t.split(" ")),
        lambda t: _with_mark(draw, t),
        lambda t: _with_mark(draw, t),
    )
    for _ in range(draw.choice((1, 1, 2))):
        text = draw.choice(changes)(text)
    return text


def _with_mark(draw: random.Random, text: str) -> str:
    place = draw.randrange(len(text) + 1)
    return text[:place] + draw.choice(_MARKS) + text[place:]


def _spelled(word: str) -> str:
    """Digits as words and words as digits, where there is such a word."""
    if word in _NUMBERS[:11]:
        return str(_NUMBERS.index(word))
    if word.isascii() and word.isdecimal() and int(word) < 11:
        return _NUMBERS[int(word)]
    return word
