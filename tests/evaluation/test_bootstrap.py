"""The paired bootstrap over images."""

from __future__ import annotations

import numpy as np
import pytest

from aligned_vq.evaluation import bootstrap
from aligned_vq.evaluation.bootstrap import count_difference, paired_difference


def verdicts(count: int, share: float, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(count) < share


def test_single_questions_give_the_normal_approximation() -> None:
    ours, reference = verdicts(4000, 0.8, 1), verdicts(4000, 0.85, 2)
    interval = paired_difference(ours, reference, np.arange(4000))
    each = ours.astype(float) - reference
    half = 1.96 * each.std() / np.sqrt(4000)
    assert interval.mean == pytest.approx(each.mean())
    assert interval.low == pytest.approx(each.mean() - half, abs=0.1 * half)
    assert interval.high == pytest.approx(each.mean() + half, abs=0.1 * half)


def test_copies_of_a_question_under_one_image_say_nothing_new() -> None:
    ours, reference = verdicts(300, 0.7, 3), verdicts(300, 0.8, 4)
    alone = paired_difference(ours, reference, np.arange(300))
    copied = paired_difference(ours.repeat(8), reference.repeat(8), np.arange(300).repeat(8))
    naive = paired_difference(ours.repeat(8), reference.repeat(8), np.arange(2400))
    assert copied == pytest.approx(alone)
    assert naive.high - naive.low < 0.5 * (alone.high - alone.low)


def test_the_names_and_the_order_of_images_do_not_matter() -> None:
    ours, reference = verdicts(40, 0.7, 5), verdicts(40, 0.8, 6)
    images = np.arange(40) // 4
    shuffled = np.random.default_rng(7).permutation(40)
    plain = paired_difference(ours, reference, images)
    renamed = paired_difference(ours[shuffled], reference[shuffled], 100 * images[shuffled] - 5)
    assert renamed == pytest.approx(plain)


def test_the_same_seed_gives_the_same_interval() -> None:
    args = verdicts(60, 0.7, 8), verdicts(60, 0.8, 9), np.arange(60) // 6
    assert paired_difference(*args, seed=3) == paired_difference(*args, seed=3)
    assert paired_difference(*args, seed=3) != paired_difference(*args, seed=4)


@pytest.mark.parametrize(
    ("ours", "reference", "expected"),
    [(True, True, 0.0), (False, False, 0.0), (True, False, 1.0), (False, True, -1.0)],
)
def test_differences_that_never_vary_have_no_width(
    ours: bool, reference: bool, expected: float
) -> None:
    interval = paired_difference(np.full(9, ours), np.full(9, reference), np.arange(9) // 2)
    assert interval == (expected, expected, expected)


def test_one_image_is_all_that_can_be_drawn() -> None:
    ours, reference = np.array([True, True, False]), np.array([False, True, False])
    assert paired_difference(ours, reference, np.zeros(3, np.int64)) == pytest.approx((1 / 3,) * 3)


def test_counts_are_the_same_as_single_verdicts() -> None:
    ours, reference = verdicts(90, 0.6, 10), verdicts(90, 0.7, 11)
    images = np.random.default_rng(12).integers(20, size=90)
    present, image = np.unique(images, return_inverse=True)
    gained = np.bincount(image, ours.astype(float) - reference, len(present)).astype(np.int64)
    assert count_difference(gained, np.bincount(image)) == paired_difference(
        ours, reference, images
    )


def test_images_without_questions_do_not_make_it_nan() -> None:
    interval = count_difference(np.array([1, 0, 0, 0]), np.array([2, 0, 0, 0]))
    assert interval == (0.5, 0.5, 0.5)


def test_how_many_are_drawn_at_once_does_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    gained, asked = np.random.default_rng(13).integers(0, 4, (2, 90)) + 1
    whole = count_difference(gained, asked)
    monkeypatch.setattr(bootstrap, "_IMAGES_PER_BATCH", 1000)
    assert count_difference(gained, asked) == whole


def test_nothing_asked_and_unequal_lengths_are_refused() -> None:
    none = np.zeros(0, np.bool_)
    with pytest.raises(ValueError, match="some"):
        paired_difference(none, none, none.astype(np.int64))
    with pytest.raises(ValueError, match="one length"):
        paired_difference(np.zeros(3, np.bool_), np.zeros(2, np.bool_), np.arange(3))
    with pytest.raises(ValueError, match="same images"):
        count_difference(np.zeros(3, np.int64), np.ones(2, np.int64))
