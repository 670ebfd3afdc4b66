"""Depth and infrared become greys and the student's input, without their holes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.images.depth import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    RangeSettings,
    grey_image,
    student_pixels,
    student_processor,
    student_view,
)
from aligned_vq.images.modality import Modality, Pixels
from aligned_vq.images.preprocess import View, preprocess, view_of
from aligned_vq.images.processor import ProcessorSettings

ROOM = RangeSettings(fixed=(0.5, 5.0))


def depth_mm(*rows: list[int]) -> Pixels:
    return Pixels(np.array(rows, np.uint16)[:, :, None], "depth")


def depth_m(*rows: list[float]) -> Pixels:
    return Pixels(np.array(rows, np.float32)[:, :, None], "depth")


def ramp(low: int = 500, high: int = 4500) -> NDArray[np.uint16]:
    return np.linspace(low, high, 64 * 48).round().astype(np.uint16).reshape(48, 64)


def as_depth(values: NDArray[Any]) -> Pixels:
    return Pixels(values[:, :, None], "depth")


def test_near_is_bright_and_beyond_the_range_is_clipped() -> None:
    grey = grey_image(depth_mm([400, 500, 2750, 5000, 9000]), ROOM)
    assert grey.values.dtype == np.uint8
    assert grey.values.tolist() == [[255, 255, 128, 1, 1]]
    assert grey.valid.all()


def test_millimetres_and_metres_give_the_same_grey() -> None:
    values = ramp()
    metres = as_depth((values / 1000).astype(np.float32))
    for settings in (ROOM, RangeSettings()):
        first, second = grey_image(as_depth(values), settings), grey_image(metres, settings)
        assert np.abs(first.values.astype(int) - second.values).max() <= 1


def test_what_is_not_measured_is_zero_and_takes_no_part_in_the_range() -> None:
    holes = grey_image(depth_m([1.0, np.nan, 2.0], [np.inf, 3.0, 0.0], [-np.inf, -1.0, 2.0]))
    assert holes.valid.tolist() == [[True, False, True], [False, True, False], [False, False, True]]
    assert (holes.values[~holes.valid] == 0).all()
    assert holes.values[0, 0] == 255
    assert holes.values[1, 1] == 1
    with_holes = ramp()
    with_holes[10:30, :40] = 0
    without = np.where(with_holes > 0, with_holes, 2000).astype(np.uint16)
    settings = RangeSettings(percentiles=(0, 100))
    seen = grey_image(as_depth(with_holes), settings)
    assert np.array_equal(
        seen.values[seen.valid], grey_image(as_depth(without), settings).values[seen.valid]
    )


def test_one_bad_pixel_does_not_use_up_the_range() -> None:
    values = ramp()
    bad = values.copy()
    bad[0, 0] = 60_000
    difference = grey_image(as_depth(bad)).values[1:].astype(int) - grey_image(
        as_depth(values)
    ).values[1:].astype(int)
    assert np.abs(difference).max() <= 2


def test_a_fixed_range_does_not_flicker_and_percentiles_do() -> None:
    before, after = ramp(), ramp()
    after[:, 30:] = 600  # someone walks into the image
    kept = np.s_[:, :30]
    fixed, fixed_after = (grey_image(as_depth(one), ROOM) for one in (before, after))
    np.testing.assert_array_equal(fixed.values[kept], fixed_after.values[kept])
    adaptive, adaptive_after = (grey_image(as_depth(one)) for one in (before, before + 2000))
    np.testing.assert_array_equal(adaptive.values, adaptive_after.values)  # at other depths
    wall = grey_image(as_depth(np.full((4, 4), 2750, np.uint16)), ROOM)
    assert (wall.values == 128).all()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
@pytest.mark.parametrize("modality", ["infrared", "bands"])
def test_warm_is_bright_in_any_dtype(dtype: type[np.generic], modality: Modality) -> None:
    values = np.array([[0, 50, 100, 200]], np.float64).astype(dtype)
    grey = grey_image(Pixels(values[:, :, None], modality), RangeSettings(fixed=(0, 200)))
    assert grey.values.tolist() == [[1, 64, 128, 255]]


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (depth_mm([0, 0], [0, 0]), "without any"),
        (depth_m([np.nan, np.inf], [0, -1]), "without any"),
        (depth_mm([1500, 1500], [0, 1500]), "constant map"),
        (depth_mm([1, 2], [3, 19]), "looks like metres"),
        (depth_m([1200, 900], [3, 19]), "looks like millimetres"),
        (Pixels(np.full((2, 2, 1), 7, np.uint8), "infrared"), "constant map"),
        (Pixels(np.full((2, 2, 1), np.nan, np.float32), "infrared"), "without any"),
        (Pixels(np.zeros((2, 2, 13), np.uint16), "bands"), "13 channels"),
        (Pixels(np.zeros((2, 2, 3), np.uint8)), "rgb"),
    ],
)
def test_maps_that_show_nothing_are_refused_by_name(pixels: Pixels, words: str) -> None:
    with pytest.raises(InvalidInput, match=words):
        grey_image(pixels)


def test_eight_bit_depth_has_no_unit() -> None:
    with pytest.raises(InvalidInput, match=r"millimetres of uint16 or metres .* got uint8"):
        Pixels(np.zeros((2, 2, 1), np.uint8), "depth")


@pytest.mark.parametrize(
    "fields",
    [
        {"fixed": (5.0, 0.5)},
        {"fixed": (0.0, float("nan"))},
        {"fixed": (1.0,)},
        {"percentiles": (1.0, 101.0)},
        {"percentiles": (99.0, 1.0)},
        {"percentiles": "1-99"},
        {"range": 3},
    ],
)
def test_wrong_ranges_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RangeSettings.from_dict(fields)


def test_ranges_are_json() -> None:
    for settings in (RangeSettings(), ROOM, RangeSettings(None, (2, 98))):
        assert RangeSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_a_fixed_range_in_millimetres_is_refused() -> None:
    with pytest.raises(ConfigError, match="divide by 1000"):
        grey_image(as_depth(ramp()), RangeSettings(fixed=(500, 5000)))


def test_the_input_is_grey_three_times_normalised() -> None:
    made = student_pixels(as_depth(ramp()), student_processor(32), ROOM)
    assert made.shape == (3, 32, 32)
    assert made.dtype == np.float32
    grey = made * np.reshape(IMAGENET_STD, (3, 1, 1)) + np.reshape(IMAGENET_MEAN, (3, 1, 1))
    np.testing.assert_allclose(grey[0], grey[1], atol=1e-5)
    np.testing.assert_allclose(grey[0], grey[2], atol=1e-5)
    assert grey[0, 0, 0] > 0.95 > 0.15 > grey[0, -1, -1] > 0
    other = student_pixels(as_depth(ramp()), student_processor(32, (0, 0, 0), (1, 1, 1)), ROOM)
    np.testing.assert_allclose(other, grey, atol=1e-5)


def test_colour_goes_the_way_of_the_processor() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    processor = student_processor(32)
    expected = preprocess(Image.fromarray(noise), processor)
    np.testing.assert_array_equal(student_pixels(Pixels(noise), processor), expected)


@pytest.mark.parametrize("side", [16, 64, 100])
def test_holes_do_not_smear_into_what_is_around_them(side: int) -> None:
    values = np.full((64, 64), 1000, np.uint16)
    values[:, ::7] = 0
    values[20:40, 20:40] = 0
    plain = student_processor(side, (0, 0, 0), (1, 1, 1))
    made = (student_pixels(as_depth(values), plain, ROOM)[0] * 255).round()
    wall = grey_image(as_depth(values), ROOM).values.max()
    assert set(np.unique(made)) == {0, wall}
    assert made[side // 2 - 1, side // 2 - 1] == 0
    assert made[side // 8].max() == wall


@pytest.mark.parametrize("shape", [(48, 64), (64, 48), (30, 200), (16, 16)])
@pytest.mark.parametrize("pads", [False, True])
def test_greys_are_framed_as_colour_is(shape: tuple[int, int], pads: bool) -> None:
    """A ramp without holes, resized bilinearly either way: only the rounding may differ."""
    processor = ProcessorSettings(size=40, resample=2, crop_size=(32, 32), do_pad=pads)
    rows, columns = np.indices(shape)
    grey = (1 + 254 * (rows + columns) / (rows + columns).max()).astype(np.uint8)
    infrared = Pixels(grey[:, :, None], "infrared")
    made = student_view(infrared, processor, RangeSettings(fixed=(1, 255)))
    colour = Image.fromarray(np.repeat(grey[:, :, None], 3, axis=2))
    expected = view_of(colour, processor).pixels
    assert made.pixels.shape == expected.shape == (32, 32, 3)
    # Colour mixes with the borders of a padded image, and greys do not.
    inside = made.pixels > 0
    assert inside.mean() > 0.1
    difference = np.abs(made.pixels.astype(int) - expected)[inside]
    assert np.median(difference) <= 2
    if not pads:
        assert inside.mean() > 0.2
        assert difference.max() <= 2


def test_what_lies_beyond_a_padded_map_is_black() -> None:
    processor = ProcessorSettings(size=40, crop_size=(40, 40), do_pad=True)
    wide = student_view(as_depth(np.full((20, 80), 1000, np.uint16)), processor, ROOM)
    assert (wide.pixels[:15] == 0).all()
    assert (wide.pixels[25:] == 0).all()
    assert (wide.pixels[15:25] > 0).all()


@pytest.mark.parametrize("shape", [(1, 500), (500, 1), (1, 1)])
@pytest.mark.parametrize("pads", [False, True])
def test_a_thin_map_still_has_a_view(shape: tuple[int, int], pads: bool) -> None:
    processor = ProcessorSettings(size=40, crop_size=(32, 32), do_pad=pads)
    view = student_view(as_depth(np.full(shape, 1000, np.uint16)), processor, ROOM)
    assert view.pixels.max() == grey_image(depth_mm([1000]), ROOM).values.max()


def test_views_of_different_modalities_are_not_the_same() -> None:
    values = np.zeros((4, 4, 3), np.uint8)
    views = {View(values), View(values, "depth"), View(values, "infrared")}
    assert len(views) == 3
