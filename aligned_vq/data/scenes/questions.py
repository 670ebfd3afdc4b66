"""Questions about a scene, in varied wording, with their one right answer.

A referent ("the large red star") is only used where it names exactly one object, so every answer
follows from the picture alone. Answers are a word or a number, except the description's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from aligned_vq.data.scenes import wording
from aligned_vq.data.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject

Rng = np.random.Generator

KINDS = ("colour", "shape", "count", "existence", "size", "relation")
DESCRIBE = "description"
CLEAR_DISTANCE_PX = 24.0
# How often a kind is tried: the ones that many scenes cannot serve, and the harder ones, more.
_WEIGHTS = {"colour": 1, "shape": 1, "count": 1.2, "existence": 2, "size": 2, "relation": 2}
_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class SceneQuestion:
    """One question of one kind, with the answer that counts as right."""

    kind: str
    text: str
    answer: str


def short_questions(
    scene: Scene, rng: Rng, count: int, kinds: Iterable[str] = KINDS
) -> list[SceneQuestion]:
    """`count` different questions with short answers; kinds a scene cannot serve are left out."""
    pool = tuple(kinds)
    weights = np.array([_WEIGHTS[kind] for kind in pool])
    found: dict[str, SceneQuestion] = {}
    for _ in range(20 * count):
        if len(found) == count:
            break
        kind = str(rng.choice(pool, p=weights / weights.sum()))
        question = _ASKERS[kind](scene, rng)
        if question is not None:
            found.setdefault(question.text, question)
    return list(found.values())


def describe(scene: Scene, rng: Rng) -> SceneQuestion:
    """The request for a description; the answer names every object from left to right."""
    items = sorted(scene.objects, key=lambda item: item.x_px)
    named = [f"a {item.size} {item.colour} {item.shape}" for item in items]
    if len(named) == 1:
        answer = f"there is {named[0]}."
    else:
        answer = f"from left to right: {', '.join(named[:-1])} and {named[-1]}."
    return SceneQuestion(DESCRIBE, str(rng.choice(wording.DESCRIBE)), answer)


def referents(scene: Scene) -> dict[str, SceneObject]:
    """Every noun phrase that names exactly one object of the scene."""
    matches: dict[str, list[SceneObject]] = {}
    for item in scene.objects:
        for phrase in (
            item.shape,
            f"{item.colour} {item.shape}",
            f"{item.size} {item.shape}",
            f"{item.size} {item.colour} {item.shape}",
            f"{item.colour} object",
            f"{item.size} {item.colour} object",
        ):
            matches.setdefault(phrase, []).append(item)
    if len(scene.objects) == 1:
        matches["object"] = list(scene.objects)
    return {phrase: items[0] for phrase, items in matches.items() if len(items) == 1}


def _pick_referent(
    scene: Scene, rng: Rng, allowed: Callable[[str], bool]
) -> tuple[str, SceneObject] | None:
    named = [(phrase, item) for phrase, item in referents(scene).items() if allowed(phrase)]
    return named[int(rng.integers(len(named)))] if named else None


def _pick_pair(
    scene: Scene, rng: Rng
) -> tuple[tuple[str, SceneObject], tuple[str, SceneObject]] | None:
    """Two phrases for two different objects."""
    named = list(referents(scene).items())
    if len({id(item) for _, item in named}) < 2:
        return None
    first = named[int(rng.integers(len(named)))]
    others = [entry for entry in named if entry[1] is not first[1]]
    return first, others[int(rng.integers(len(others)))]


def _ask_colour(scene: Scene, rng: Rng) -> SceneQuestion | None:
    picked = _pick_referent(scene, rng, lambda phrase: not _mentions(phrase, COLOURS))
    if picked is None:
        return None
    phrase, item = picked
    return SceneQuestion("colour", _spelled(rng, _word(rng, wording.COLOUR, phrase)), item.colour)


def _ask_shape(scene: Scene, rng: Rng) -> SceneQuestion | None:
    picked = _pick_referent(scene, rng, lambda phrase: phrase.endswith("object"))
    if picked is None:
        return None
    phrase, item = picked
    return SceneQuestion("shape", _word(rng, wording.SHAPE, phrase), item.shape)


def _ask_count(scene: Scene, rng: Rng) -> SceneQuestion:
    size, colour, shape = _attributes(scene, rng)
    forms: list[tuple[str, set[str]]] = [
        ("objects", set()),
        (_plural(shape), {shape}),
        (f"{colour} objects", {colour}),
        (f"{size} objects", {size}),
        (f"{size} {_plural(shape)}", {size, shape}),
    ]
    phrase, wanted = forms[int(rng.choice(5, p=(0.3, 0.2, 0.2, 0.2, 0.1)))]
    number = sum(wanted <= {item.size, item.colour, item.shape} for item in scene.objects)
    return SceneQuestion("count", _word(rng, wording.COUNT, phrase), str(number))


def _ask_existence(scene: Scene, rng: Rng) -> SceneQuestion | None:
    """Half the time about something that is there; else, mostly, a mix of what is there."""
    present = bool(rng.random() < 0.5)
    form = int(rng.choice(4, p=(0.15, 0.15, 0.45, 0.25)))
    for _ in range(10):
        size, colour, shape = _attributes(scene, rng)
        if present:
            item = scene.objects[int(rng.integers(len(scene.objects)))]
            size, colour, shape = item.size, item.colour, item.shape
        phrase, wanted = [
            (shape, {shape}),
            (f"{colour} object", {colour}),
            (f"{colour} {shape}", {colour, shape}),
            (f"{size} {shape}", {size, shape}),
        ][form]
        there = any(wanted <= {item.size, item.colour, item.shape} for item in scene.objects)
        if there == present:
            text = _word(rng, wording.EXISTENCE, _article(phrase))
            return SceneQuestion("existence", text, "yes" if present else "no")
    return None


def _ask_size(scene: Scene, rng: Rng) -> SceneQuestion | None:
    """Comparison of two sizes, or the size of one object."""
    if rng.random() < 0.3:
        picked = _pick_referent(scene, rng, lambda phrase: not _mentions(phrase, SIZES))
        if picked is None:
            return None
        return SceneQuestion("size", _word(rng, wording.SIZE_OF, picked[0]), picked[1].size)
    pair = _pick_pair(scene, rng)
    if pair is None:
        return None
    (one, first), (two, second) = pair
    if _mentions(one, SIZES) or _mentions(two, SIZES):
        return None
    if rng.random() < 0.35:
        same = "yes" if first.size == second.size else "no"
        return SceneQuestion("size", _word(rng, wording.SAME_SIZE, one, two), same)
    larger = bool(rng.random() < 0.5)
    wanted, other = ("large", "small") if larger else ("small", "large")
    if rng.random() < 0.5 and first.size != second.size and "object" not in one + two:
        templates = wording.WHICH_LARGER if larger else wording.WHICH_SMALLER
        answer = first.shape if first.size == wanted else second.shape
        if first.shape == second.shape:
            answer = first.colour if first.size == wanted else second.colour
        if first.shape == second.shape and first.colour == second.colour:
            return None
        return SceneQuestion("size", _word(rng, templates, one, two), answer)
    templates = wording.LARGER if larger else wording.SMALLER
    answer = "yes" if first.size == wanted and second.size == other else "no"
    return SceneQuestion("size", _word(rng, templates, one, two), answer)


def _ask_relation(scene: Scene, rng: Rng) -> SceneQuestion | None:
    pair = _pick_pair(scene, rng)
    if pair is None:
        return None
    (one, first), (two, second) = pair
    direction = str(rng.choice(list(wording.DIRECTIONS)))
    horizontal = direction in ("left", "right")
    gap = first.x_px - second.x_px if horizontal else first.y_px - second.y_px
    if abs(gap) < CLEAR_DISTANCE_PX:
        return None
    before = direction in ("left", "above")
    if rng.random() < 0.25:
        opposite = wording.OPPOSITE[direction]
        templates = wording.SIDE_H if horizontal else wording.SIDE_V
        options = [direction, opposite]
        answer = (
            ("left" if gap < 0 else "right") if horizontal else ("above" if gap < 0 else "below")
        )
        rng.shuffle(options)
        text = _word(rng, templates, one, two).replace("$a", options[0]).replace("$b", options[1])
        return SceneQuestion("relation", text, answer)
    answer = "yes" if (gap < 0) == before else "no"
    phrase = str(rng.choice(wording.DIRECTIONS[direction]))
    text = _word(rng, wording.RELATION, one, two).replace("$d", phrase)
    return SceneQuestion("relation", text, answer)


def _attributes(scene: Scene, rng: Rng) -> tuple[str, str, str]:
    """A size, a colour and a shape, each seen in the scene three times out of four."""

    def choose(seen: list[str], every: Iterable[str]) -> str:
        return str(rng.choice(seen if rng.random() < 0.75 else list(every)))

    items = scene.objects
    return (
        choose([item.size for item in items], SIZES),
        choose([item.colour for item in items], COLOURS),
        choose([item.shape for item in items], SHAPES),
    )


def _mentions(phrase: str, words: Iterable[str]) -> bool:
    return bool(set(phrase.split()) & set(words))


def _plural(shape: str) -> str:
    return _PLURALS.get(shape, f"{shape}s")


def _article(phrase: str) -> str:
    return f"{'an' if phrase[0] in 'aeiou' else 'a'} {phrase}"


def _word(rng: Rng, templates: tuple[str, ...], one: str, two: str = "") -> str:
    """A template filled with phrases, with synonyms swapped in now and then."""
    text = str(rng.choice(templates)).replace("$1", one).replace("$2", two)
    words = [
        str(rng.choice(wording.SYNONYMS[word]))
        if word in wording.SYNONYMS and rng.random() < 0.35
        else word
        for word in text.split(" ")
    ]
    return " ".join(words)


def _spelled(rng: Rng, text: str) -> str:
    return text.replace("colour", "color") if rng.random() < 0.4 else text


_ASKERS: dict[str, Callable[[Scene, Rng], SceneQuestion | None]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "count": _ask_count,
    "existence": _ask_existence,
    "size": _ask_size,
    "relation": _ask_relation,
}
