"""Questions that a camera without colour can be asked."""

from __future__ import annotations

from aligned_vq.data.scenes.exam import two_camera_scene
from aligned_vq.data.scenes.questions import KINDS, colour_free_questions
from aligned_vq.data.scenes.scene import COLOURS, sample_scene, scene_rng


def test_no_question_names_or_asks_for_a_colour() -> None:
    kinds = set()
    for index in range(60):
        rng = scene_rng("test", index)
        scene = sample_scene(rng)
        questions = colour_free_questions(scene, rng, 8)
        assert len({question.text for question in questions}) == len(questions) > 0
        for question in questions:
            kinds.add(question.kind)
            words = f"{question.text} {question.answer}".lower()
            assert not any(colour in words.replace("?", " ").split() for colour in COLOURS)
            assert "colo" not in words
    assert kinds == set(KINDS) - {"colour"}


def test_fewer_questions_are_the_first_of_more() -> None:
    for modality in ("depth", "infrared"):
        few = two_camera_scene(modality, "test", 3, 4)
        many = two_camera_scene(modality, "test", 3, 12)
        assert few.questions == many.questions[: len(few.questions)]
        assert few.image.tobytes() == many.image.tobytes()
        assert (few.other.values == many.other.values).all()
