"""Both halves of a pair are cropped and mirrored alike; evaluation sees the whole image."""

from __future__ import annotations

import numpy as np
import pytest

from aligned_vq.data.pairs.augment import WHOLE, Window, paired_view, random_window
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.depth import GreyImage, RangeSettings, grey_image
from aligned_vq.images.modality import Pixels

SIDE = 48


def marked(top: float, left: float, size: float = 0.2) -> tuple[Pixels, Pixels]:
    """A square at one place of both halves: red of 200 x 150 pixels, near of 128 x 96."""
    rgb = np.zeros((150, 200, 3), np.uint8)
    depth = np.full((96, 128, 1), 4000, np.uint16)
    for values, mark in ((rgb, [255, 0, 0]), (depth, [1000])):
        height, width = values.shape[:2]
        rows = slice(round(top * height), round((top + size) * height))
        values[rows, round(left * width) : round((left + size) * width)] = mark
    return Pixels(rgb), Pixels(depth, "depth")


@pytest.mark.parametrize("seed", range(12))
def test_both_halves_show_the_same_window(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rgb, depth = marked(0.3, 0.15, 0.45)
    window = random_window(rng, rgb, (0.2, 0.8))
    seen, depth_seen = paired_view(rgb, depth, window, SIDE)
    assert seen.values.shape == (SIDE, SIDE, 3)
    assert depth_seen.values.shape == (SIDE, SIDE, 1)
    assert depth_seen.values.dtype == np.uint16
    red = np.greater(seen.values[:, :, 0], 127)
    near = np.less(depth_seen.values[:, :, 0], 2500)
    assert red.any()
    # Edges lie between pixels of different sizes.
    assert (red != near).mean() < 0.06


def test_the_window_is_the_part_it_says() -> None:
    rgb, depth = marked(0.0, 0.0, 0.5)
    seen, depth_seen = paired_view(rgb, depth, Window(0.25, 0.0, 0.75, 0.5), SIDE)
    # Filters reach beyond the window, so the last rows are mixed with what is below it.
    colour, depth_mm = seen.values[:-3], depth_seen.values[:-3]
    assert (colour[:, : SIDE // 2 - 3] == [255, 0, 0]).all()
    assert (colour[:, SIDE // 2 + 3 :] == 0).all()
    assert (depth_mm[:, : SIDE // 2 - 3] == 1000).all()
    assert (depth_mm[:, SIDE // 2 + 3 :] == 4000).all()


def test_mirrored_windows_mirror_both() -> None:
    rgb, depth = marked(0.1, 0.1)
    window = Window(0.05, 0.0, 0.9, 0.8)
    plain = paired_view(rgb, depth, window, SIDE)
    flipped = paired_view(rgb, depth, window._replace(flipped=True), SIDE)
    for one, other in zip(plain, flipped, strict=True):
        np.testing.assert_array_equal(one.values[:, ::-1], other.values)


def test_the_whole_image_is_seen_without_chance() -> None:
    rgb, depth = marked(0.0, 0.8)
    views = [paired_view(rgb, depth, WHOLE, SIDE) for _ in range(2)]
    for one, other in zip(*views, strict=True):
        np.testing.assert_array_equal(one.values, other.values)
    same, same_depth = paired_view(*marked_square(), WHOLE, SIDE)
    np.testing.assert_array_equal(same.values, marked_square()[0].values)
    np.testing.assert_array_equal(same_depth.values, marked_square()[1].values)


def marked_square() -> tuple[Pixels, Pixels]:
    """Noise with holes that already has the size of a view."""
    rng = np.random.default_rng(5)
    rgb = rng.integers(0, 256, (SIDE, SIDE, 3), np.uint8)
    depth = rng.integers(500, 9000, (SIDE, SIDE, 1)).astype(np.uint16)
    depth[10:20, 10:20] = 0
    return Pixels(rgb), Pixels(depth, "depth")


def test_windows_follow_from_the_generator() -> None:
    rgb, _ = marked(0, 0)
    first, again = ([random_window(rng, rgb) for _ in range(50)] for rng in map(generator, (3, 3)))
    assert first == again
    assert len(set(first)) == 50
    assert 10 <= sum(window.flipped for window in first) <= 40


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_windows_have_the_scale_and_aspect_that_were_asked_for() -> None:
    rgb, _ = marked(0, 0)
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(500):
        window = random_window(rng, rgb, (0.1, 0.5))
        width, height = window.right - window.left, window.bottom - window.top
        assert 0 <= window.left < window.right <= 1 + 1e-9
        assert 0 <= window.top < window.bottom <= 1 + 1e-9
        areas.append(width * height)
        assert 0.74 <= width * rgb.width / (height * rgb.height) <= 1.34
    assert 0.1 <= min(areas) < 0.15
    assert 0.45 < max(areas) <= 0.5 + 1e-9


def test_images_too_long_for_the_scale_are_cropped_within_their_bounds() -> None:
    long = Pixels(np.zeros((4, 400, 3), np.uint8))
    for seed in range(20):
        window = random_window(generator(seed), long, (0.9, 1.0))
        assert 0 <= window.top < window.bottom <= 1
        assert 0 <= window.left < window.right <= 1


@pytest.mark.parametrize("scale", [(0.0, 1.0), (0.5, 0.2), (0.5, 1.1), (float("nan"), 1.0)])
def test_scales_out_of_range_are_refused(scale: tuple[float, float]) -> None:
    with pytest.raises(ConfigError, match="scale of crops"):
        random_window(generator(0), marked(0, 0)[0], scale)


def test_greys_keep_the_range_of_the_whole_image() -> None:
    rgb, depth = marked(0.0, 0.0, 0.5)
    far = Window(0.6, 0.6, 1.0, 1.0)
    grey = grey_image(depth, RangeSettings(percentiles=(0, 100)))
    _, cut = paired_view(rgb, grey, far, SIDE)
    assert isinstance(cut, GreyImage)
    assert (cut.values == 1).all()
    with pytest.raises(InvalidInput, match="constant map"):
        grey_image(paired_view(rgb, depth, far, SIDE)[1])


def test_holes_stay_holes() -> None:
    rgb, depth = marked(0.0, 0.0)
    depth.values[40:90, 60:120] = 0
    grey = grey_image(depth, RangeSettings(fixed=(0.5, 5)))
    window = Window(0.3, 0.2, 1.0, 1.0)
    _, raw = paired_view(rgb, depth, window, SIDE)
    _, cut = paired_view(rgb, grey, window, SIDE)
    np.testing.assert_array_equal(cut.valid, np.greater(raw.values[:, :, 0], 0))
    assert 0.2 < cut.valid.mean() < 0.8
    assert set(np.unique(raw.values)) == {0, 4000}


def test_the_other_dtypes_are_kept() -> None:
    rgb, depth = marked(0.0, 0.0)
    metres = Pixels(np.divide(depth.values, 1000).astype(np.float32), "depth")
    _, cut = paired_view(rgb, metres, WHOLE, SIDE)
    assert cut.values.dtype == np.float32
    assert cut.values.max() == pytest.approx(4.0)
    celsius = np.full((96, 128, 1), 20.5, np.float32)
    celsius[:48] = np.nan
    _, warm = paired_view(rgb, Pixels(celsius, "infrared"), WHOLE, SIDE)
    assert np.isnan(warm.values[: SIDE // 2 - 1]).all()
    assert (warm.values[SIDE // 2 + 1 :] == 20.5).all()
    counts = Pixels(np.full((96, 128, 1), 60_000, np.uint16), "infrared")
    _, same = paired_view(rgb, counts, WHOLE, SIDE)
    assert same.values.dtype == np.uint16
    assert (same.values == 60_000).all()
