"""Questions about a scene, in varied wording, with one correct answer each.

A noun phrase such as "the large red star" is used only if it refers to exactly one object, so every
answer follows from the image. Answers are one word or number, except for descriptions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np

from aligned_vq.data.scenes import wording
from aligned_vq.data.scenes.scene import COLOURS, SHAPES, SIZES, Scene, SceneObject

Rng = np.random.Generator

KINDS = ("colour", "shape", "count", "existence", "size", "relation")
DESCRIBE = "description"
CLEAR_DISTANCE_PX = 24.0
"""Minimum distance along an axis for a question about the relation of two objects."""
# Relative sampling rates: higher for kinds that many scenes do not allow, and for difficult ones.
_WEIGHTS = {"colour": 1, "shape": 1, "count": 1.2, "existence": 2, "size": 2, "relation": 2}
_PLURALS = {"cross": "crosses"}


@dataclass(frozen=True)
class SceneQuestion:
    """A question of one kind and its correct answer."""

    kind: str
    text: str
    answer: str


def short_questions(
    scene: Scene,
    rng: Rng,
    count: int,
    kinds: Iterable[str] = KINDS,
    allowed: Callable[[SceneQuestion], bool] = lambda question: True,
) -> list[SceneQuestion]:
    """`count` distinct questions with short answers, or fewer if the scene does not allow more."""
    pool = tuple(kinds)
    weights = np.array([_WEIGHTS[kind] for kind in pool])
    questions: dict[str, SceneQuestion] = {}
    # Bounded, because a scene may allow fewer distinct questions.
    for _ in range(20 * count):
        if len(questions) == count:
            break
        kind = str(rng.choice(pool, p=weights / weights.sum()))
        question = _GENERATORS[kind](scene, rng)
        if question is not None and allowed(question):
            questions.setdefault(question.text, question)
    return list(questions.values())


def colour_free_questions(scene: Scene, rng: Rng, count: int) -> list[SceneQuestion]:
    """Questions as those of `short_questions` that neither mention nor ask for a colour.

    They can be answered from an image of any camera.
    """
    kinds = [kind for kind in KINDS if kind != "colour"]
    return short_questions(scene, rng, count, kinds, _is_colour_free)


def _is_colour_free(question: SceneQuestion) -> bool:
    words = re.findall("[a-z]+", f"{question.text} {question.answer}".lower())
    return COLOURS.keys().isdisjoint(words)


def describe(scene: Scene, rng: Rng) -> SceneQuestion:
    """The request for a description; the answer lists all objects from left to right."""
    items = sorted(scene.objects, key=lambda item: item.x_px)
    phrases = [f"a {item.size} {item.colour} {item.shape}" for item in items]
    if len(phrases) == 1:
        answer = f"there is {phrases[0]}."
    else:
        answer = f"from left to right: {', '.join(phrases[:-1])} and {phrases[-1]}."
    return SceneQuestion(DESCRIBE, str(rng.choice(wording.DESCRIBE)), answer)


def referents(scene: Scene) -> dict[str, SceneObject]:
    """All noun phrases that refer to exactly one object of the scene."""
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
    candidates = [(phrase, item) for phrase, item in referents(scene).items() if allowed(phrase)]
    return candidates[int(rng.integers(len(candidates)))] if candidates else None


def _pick_pair(
    scene: Scene, rng: Rng
) -> tuple[tuple[str, SceneObject], tuple[str, SceneObject]] | None:
    """Phrases for two different objects."""
    candidates = list(referents(scene).items())
    if len({id(item) for _, item in candidates}) < 2:
        return None
    first = candidates[int(rng.integers(len(candidates)))]
    # By identity, because several phrases refer to the same object.
    others = [entry for entry in candidates if entry[1] is not first[1]]
    return first, others[int(rng.integers(len(others)))]


def _ask_colour(scene: Scene, rng: Rng) -> SceneQuestion | None:
    # The phrase must not contain the answer.
    referent = _pick_referent(scene, rng, lambda phrase: not _mentions(phrase, COLOURS))
    if referent is None:
        return None
    phrase, item = referent
    text = _vary_spelling(rng, _word(rng, wording.COLOUR, phrase))
    return SceneQuestion("colour", text, item.colour)


def _ask_shape(scene: Scene, rng: Rng) -> SceneQuestion | None:
    referent = _pick_referent(scene, rng, lambda phrase: phrase.endswith("object"))
    if referent is None:
        return None
    phrase, item = referent
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
    phrase, attributes = forms[int(rng.choice(5, p=(0.3, 0.2, 0.2, 0.2, 0.1)))]
    number = sum(attributes <= {item.size, item.colour, item.shape} for item in scene.objects)
    return SceneQuestion("count", _word(rng, wording.COUNT, phrase), str(number))


def _ask_existence(scene: Scene, rng: Rng) -> SceneQuestion | None:
    """Whether an object exists; in half of the cases it does.

    If not, its attributes are mostly those of different objects of the scene.
    """
    present = bool(rng.random() < 0.5)
    form = int(rng.choice(4, p=(0.15, 0.15, 0.45, 0.25)))
    # Attributes are drawn again until they exist, or do not, as intended.
    for _ in range(10):
        size, colour, shape = _attributes(scene, rng)
        if present:
            item = scene.objects[int(rng.integers(len(scene.objects)))]
            size, colour, shape = item.size, item.colour, item.shape
        phrase, attributes = [
            (shape, {shape}),
            (f"{colour} object", {colour}),
            (f"{colour} {shape}", {colour, shape}),
            (f"{size} {shape}", {size, shape}),
        ][form]
        exists = any(attributes <= {item.size, item.colour, item.shape} for item in scene.objects)
        if exists == present:
            text = _word(rng, wording.EXISTENCE, _article(phrase))
            return SceneQuestion("existence", text, "yes" if present else "no")
    return None


def _ask_size(scene: Scene, rng: Rng) -> SceneQuestion | None:
    """The size of an object, or a comparison of two sizes."""
    if rng.random() < 0.3:
        referent = _pick_referent(scene, rng, lambda phrase: not _mentions(phrase, SIZES))
        if referent is None:
            return None
        phrase, item = referent
        return SceneQuestion("size", _word(rng, wording.SIZE_OF, phrase), item.size)
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
    size, opposite = ("large", "small") if larger else ("small", "large")
    if rng.random() < 0.5 and first.size != second.size and "object" not in one + two:
        templates = wording.WHICH_LARGER if larger else wording.WHICH_SMALLER
        answer = first.shape if first.size == size else second.shape
        # If both have the same shape, only the colour can distinguish them.
        if first.shape == second.shape:
            answer = first.colour if first.size == size else second.colour
        if first.shape == second.shape and first.colour == second.colour:
            return None
        return SceneQuestion("size", _word(rng, templates, one, two), answer)
    templates = wording.LARGER if larger else wording.SMALLER
    answer = "yes" if first.size == size and second.size == opposite else "no"
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
    is_negative = direction in ("left", "above")  # coordinates grow to the right and downwards
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
    answer = "yes" if (gap < 0) == is_negative else "no"
    phrase = str(rng.choice(wording.DIRECTIONS[direction]))
    text = _word(rng, wording.RELATION, one, two).replace("$d", phrase)
    return SceneQuestion("relation", text, answer)


def _attributes(scene: Scene, rng: Rng) -> tuple[str, str, str]:
    """A size, a colour and a shape, each with a probability of at least 3/4 one of the scene's."""

    def choose(in_scene: list[str], all_values: Iterable[str]) -> str:
        return str(rng.choice(in_scene if rng.random() < 0.75 else list(all_values)))

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
    """A random template filled with phrases, with some words replaced by synonyms."""
    text = str(rng.choice(templates)).replace("$1", one).replace("$2", two)
    words = [
        str(rng.choice(wording.SYNONYMS[word]))
        if word in wording.SYNONYMS and rng.random() < 0.35
        else word
        for word in text.split(" ")
    ]
    return " ".join(words)


def _vary_spelling(rng: Rng, text: str) -> str:
    return text.replace("colour", "color") if rng.random() < 0.4 else text


_GENERATORS: dict[str, Callable[[Scene, Rng], SceneQuestion | None]] = {
    "colour": _ask_colour,
    "shape": _ask_shape,
    "count": _ask_count,
    "existence": _ask_existence,
    "size": _ask_size,
    "relation": _ask_relation,
}
