"""The reference world: repeatable, split by seed, and its answers follow from the picture."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from aligned_vq.data.scenes.patches import GRID, NUM_PATCHES, PATCH_PX, label_scene
from aligned_vq.data.scenes.questions import KINDS, describe, referents, short_questions
from aligned_vq.data.scenes.scene import (
    BACKGROUNDS,
    COLOURS,
    MAX_OBJECTS,
    SHAPES,
    SIZES,
    SPLITS,
    Scene,
    SceneObject,
    Split,
    render,
    sample_scene,
    scene_rng,
)


def scenes(split: Split, count: int) -> list[Scene]:
    return [sample_scene(scene_rng(split, index)) for index in range(count)]


def test_the_world_is_as_rich_as_promised() -> None:
    assert len(SHAPES) >= 6
    assert len(COLOURS) >= 8
    assert len(SIZES) == 2
    seen = scenes("train", 400)
    assert {len(scene.objects) for scene in seen} == set(range(1, MAX_OBJECTS + 1))
    assert {scene.background for scene in seen} == set(BACKGROUNDS)
    assert {item.shape for scene in seen for item in scene.objects} == set(SHAPES)
    assert {item.colour for scene in seen for item in scene.objects} == set(COLOURS)


def test_a_seed_gives_one_picture() -> None:
    first, again = (render(sample_scene(scene_rng("test", 7))) for _ in range(2))
    assert np.array_equal(first.pixels, again.pixels)
    assert first.pixels.shape == (336, 336, 3)


def test_no_scene_is_in_two_splits() -> None:
    drawn = {split: set(scenes(split, 300)) for split in SPLITS}
    assert all(len(found) == 300 for found in drawn.values())
    assert not drawn["test"] & drawn["train"]
    assert not drawn["test"] & drawn["validation"]


def test_every_object_stays_visible() -> None:
    for index in range(60):
        scene = sample_scene(scene_rng("train", index))
        shown = render(scene).object_map
        for number, item in enumerate(scene.objects):
            alone = Scene((item,), scene.background, scene.texture_seed)
            whole = int((render(alone).object_map == 0).sum())
            assert (shown == number).sum() > 0.4 * whole


def test_patch_labels_name_the_object_seen() -> None:
    for index in range(20):
        scene = sample_scene(scene_rng("validation", index))
        labels = label_scene(scene, render(scene).object_map)
        assert labels.owner.shape == (NUM_PATCHES,)
        for number, item in enumerate(scene.objects):
            patch = int(item.y_px // PATCH_PX) * GRID + int(item.x_px // PATCH_PX)
            assert labels.centre[patch]
            assert tuple(labels.attributes[number]) == (
                SHAPES.index(item.shape) + 1,
                list(COLOURS).index(item.colour) + 1,
                SIZES.index(item.size) + 1,
            )


def thing(shape: str, colour: str, size: str, x: float, y: float) -> SceneObject:
    return SceneObject(shape, colour, size, x, y, 50.0 if size == "large" else 25.0, 0.0)


SCENE = Scene(
    (
        thing("star", "red", "large", 80, 80),
        thing("circle", "blue", "small", 250, 90),
        thing("circle", "green", "small", 160, 260),
    ),
    "plain",
    0,
)


def test_referents_name_exactly_one_object() -> None:
    named = referents(SCENE)
    assert named["star"].colour == "red"
    assert named["blue circle"].x_px == 250
    assert "circle" not in named
    assert "small circle" not in named


def test_answers_follow_from_the_scene() -> None:
    answers = {}
    for seed in range(300):
        for question in short_questions(SCENE, np.random.default_rng(seed), 6):
            answers[question.text] = question.answer
    assert answers["What colour is the star?"] == "red"
    assert answers["How many circles are there?"] == "2"
    assert answers["How many objects are there?"] == "3"
    assert answers["What shape is the blue object?"] == "circle"
    assert answers["Is there a red star?"] == "yes"
    assert answers["Is there a red circle?"] == "no"
    left = {a for q, a in answers.items() if re.match(r"Is the .*star (to the )?left of the", q)}
    assert left == {"yes"}
    above = {a for q, a in answers.items() if re.match(r"Is the .*green .* over the", q)}
    assert above == {"no"}
    larger = {a for q, a in answers.items() if re.match(r"Is the .*star (larg|bigg)er than", q)}
    assert larger == {"yes"}


def test_descriptions_go_from_left_to_right() -> None:
    answer = describe(SCENE, np.random.default_rng(0)).answer
    assert answer == (
        "from left to right: a large red star, a small green circle and a small blue circle."
    )


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_asked_in_many_words(kind: str) -> None:
    texts: Counter[str] = Counter()
    for index in range(150):
        rng = scene_rng("validation", index)
        scene = sample_scene(rng)
        for question in short_questions(scene, rng, 4, kinds=[kind]):
            assert question.kind == kind
            texts[" ".join(question.text.split()[:3])] += 1
    assert len(texts) >= 3
