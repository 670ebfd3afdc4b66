"""Which difference between two images counts as a change."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.images.preprocess import View
from edge_client.watch.change import DEFAULT_LEVEL, ChangeTest, change
from tests.conftest import IMAGE_SIDE

PATCH = 14
PATCHES = IMAGE_SIDE // PATCH
BEFORE = np.random.default_rng(4).normal(size=(3, PATCHES, PATCHES)).astype(np.float32)


@pytest.fixture(scope="module")
def manifest(bundle_directory: Path) -> SplitManifest:
    return read_manifest(bundle_directory)


def moved(by: float, channel: int = 1) -> NDArray[np.float32]:
    """`BEFORE` with one patch of one channel changed."""
    after = BEFORE.copy()
    after[channel, 2, 3] += by
    return after


def grey(level: int) -> NDArray[np.uint8]:
    return np.full((IMAGE_SIDE, IMAGE_SIDE, 3), level, np.uint8)


def test_the_same_means_are_no_change() -> None:
    assert change(BEFORE, BEFORE.copy()) == 0


@pytest.mark.parametrize("by", [0.7, -0.7])
@pytest.mark.parametrize("channel", range(3))
def test_one_patch_of_one_channel_is_a_change_in_either_direction(by: float, channel: int) -> None:
    assert change(BEFORE, moved(by, channel)) == pytest.approx(0.7, abs=1e-6)


def test_the_largest_change_counts_and_not_the_number_of_patches() -> None:
    several = moved(0.7)
    several[1, 0, :3] += 0.5
    assert change(BEFORE, several) == pytest.approx(0.7, abs=1e-6)


def test_exposure_is_no_change_and_hides_none() -> None:
    """Each channel of its own, as the white balance moves."""
    exposure = np.array([1.5, -0.4, 0.2], np.float32)[:, None, None]
    assert change(BEFORE, BEFORE + exposure) == pytest.approx(0, abs=1e-6)
    assert change(BEFORE, moved(0.7) + exposure) == pytest.approx(0.7, abs=1e-6)


def test_what_covers_most_of_the_image_is_a_change_of_the_rest() -> None:
    after = BEFORE.copy()
    after[:, :3] += 0.9
    assert change(BEFORE, after) == pytest.approx(0.9, abs=1e-6)


def test_neither_image_is_written_to() -> None:
    before, after = BEFORE.copy(), moved(0.7)
    change(before, after)
    assert np.array_equal(before, BEFORE)
    assert np.array_equal(after, moved(0.7))


def test_the_first_image_differs(manifest: SplitManifest) -> None:
    assert ChangeTest(manifest).differs(BEFORE)


def test_a_change_is_more_than_the_level(manifest: SplitManifest) -> None:
    test = ChangeTest(manifest)
    test.set_reference(BEFORE)
    assert not test.differs(BEFORE)
    assert not test.differs(moved(DEFAULT_LEVEL - 0.01))
    assert test.differs(moved(DEFAULT_LEVEL + 0.01))
    insensitive = ChangeTest(manifest, level=2)
    insensitive.set_reference(BEFORE)
    assert not insensitive.differs(moved(1.9))
    assert insensitive.differs(moved(2.1))


def test_images_are_compared_with_the_last_question_so_that_slow_changes_add_up(
    manifest: SplitManifest,
) -> None:
    test = ChangeTest(manifest)
    test.set_reference(BEFORE)
    assert [test.differs(moved(by)) for by in (0.1, 0.2, 0.29, 0.31)] == [*[False] * 3, True]
    test.set_reference(moved(0.31))
    assert not test.differs(moved(0.5))
    assert test.differs(BEFORE)


def test_means_are_those_of_the_patches_of_the_tower(manifest: SplitManifest) -> None:
    pixels = grey(0)
    pixels[2 * PATCH : 3 * PATCH, PATCH : 2 * PATCH] = (255, 0, 0)
    found = ChangeTest(manifest).means(View(pixels))
    assert found.shape == (3, PATCHES, PATCHES)
    black = ChangeTest(manifest).means(View(grey(0)))
    differing = np.argwhere(~np.isclose(found, black)).tolist()
    assert differing == [[0, 2, 1]]
    expected = 1 / manifest.processor.image_std[0]
    assert found[0, 2, 1] - black[0, 2, 1] == pytest.approx(expected, rel=1e-5)


def test_noise_of_a_sensor_is_no_change_and_an_object_is(manifest: SplitManifest) -> None:
    test = ChangeTest(manifest)
    noise = np.random.default_rng(2).normal(0, 12, (IMAGE_SIDE, IMAGE_SIDE, 3))
    noisy = (grey(128) + noise).clip(0, 255).astype(np.uint8)
    test.set_reference(test.means(View(grey(128))))
    assert not test.differs(test.means(View(noisy)))
    noisy[20:28, 20:28] = 0
    assert test.differs(test.means(View(noisy)))
