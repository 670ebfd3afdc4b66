"""Images are corrected towards those of calibration, and the choice follows the labels' doubt."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage

from aligned_vq.errors import ConfigError
from aligned_vq.images.preprocess import View, normalize
from aligned_vq.images.processor import ProcessorSettings
from aligned_vq.lqa.choice import ChoiceSettings, CorrectionChoice
from aligned_vq.lqa.corrections import InputCorrections, median_of_neighbours
from aligned_vq.lqa.statistics import ChannelStatistics, channel_moments

SIDE = 24
PROCESSOR = ProcessorSettings(size=(SIDE, SIDE), do_center_crop=False)
WANTED = ChannelStatistics((0.1, 0.2, 0.3), (0.5, 0.6, 0.7))
FIRST, LATER = ChoiceSettings().trial_images


def views(number: int, low: int = 0, high: int = 256) -> list[View]:
    rng = np.random.default_rng(7)
    return [View(rng.integers(low, high, (SIDE, SIDE, 3), np.uint8)) for _ in range(number)]


def test_a_median_is_that_of_nine_pixels() -> None:
    (view,) = views(1)
    channels = [
        ndimage.median_filter(view.pixels[:, :, channel], 3, mode="nearest") for channel in range(3)
    ]
    np.testing.assert_array_equal(median_of_neighbours(view.pixels), np.stack(channels, 2))


def test_statistics_of_images() -> None:
    images = [normalize(view, PROCESSOR) for view in views(5)]
    found = ChannelStatistics.of(images)
    pixels = np.stack(images)
    assert found.mean == pytest.approx(pixels.mean((0, 2, 3)), abs=1e-5)
    assert found.spread == pytest.approx(np.sqrt(pixels.var((2, 3)).mean(0)), abs=1e-5)
    assert ChannelStatistics.from_dict(found.to_dict()) == found
    with pytest.raises(ConfigError, match="spreads above 0"):
        ChannelStatistics((0.0, 0.0, 0.0), (1.0, 1.0, 0.0))
    with pytest.raises(ConfigError, match="finite"):
        ChannelStatistics((math.nan, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_an_aligned_image_has_the_wanted_statistics() -> None:
    corrections = InputCorrections(PROCESSOR, WANTED)
    for view in views(3, 40, 90):
        corrections.see(view)
        moments = channel_moments(corrections.corrected(view, "image"))
        np.testing.assert_allclose(moments, [WANTED.mean, WANTED.spread], atol=1e-5)
        plain = normalize(view, PROCESSOR)
        np.testing.assert_array_equal(corrections.corrected(view, "none"), plain)


def test_a_stream_is_aligned_as_a_whole() -> None:
    corrections = InputCorrections(PROCESSOR, WANTED)
    stream = [*views(30, 40, 90), *views(30, 90, 140)]
    for view in stream:
        corrections.see(view)
    dark, bright = (
        channel_moments(corrections.corrected(view, "stream"))[0] for view in stream[29:31]
    )
    assert (dark < bright).all()
    np.testing.assert_allclose(bright, WANTED.mean, atol=0.3)


def test_a_plain_image_is_not_widened_to_noise() -> None:
    corrections = InputCorrections(PROCESSOR, WANTED)
    view = View(np.full((SIDE, SIDE, 3), 128, np.uint8))
    view.pixels[0, 0] = 129
    corrections.see(view)
    for correction in ("image", "stream"):
        assert np.isfinite(corrections.corrected(view, correction)).all()
        assert corrections.corrected(view, correction).std() < 0.3


def test_without_statistics_nothing_is_aligned() -> None:
    assert InputCorrections(PROCESSOR, None).choices == ("none", "median")


def run(choice: CorrectionChoice[str], doubts: dict[str, float], images: int) -> int:
    """Show so many images with these doubts; returns the number of corrected images."""
    tried = 0
    for _ in range(images):
        wanted = choice.wanted()
        assert wanted[0] == choice.chosen
        tried += len(wanted)
        choice.observe({name: doubts[name] for name in wanted})
    return tried


def test_the_least_doubt_is_chosen() -> None:
    choice = CorrectionChoice(("none", "median", "image"))
    assert run(choice, {"none": 1.0, "median": 0.5, "image": 0.9}, FIRST) == 3 * FIRST
    assert choice.chosen == "median"


def test_a_stream_with_little_to_gain_stays_as_it_is() -> None:
    choice = CorrectionChoice(("none", "median"))
    run(choice, {"none": 1.0, "median": 0.98}, 1_000)
    assert choice.chosen == "none"


def test_a_change_is_noticed_and_so_is_its_end() -> None:
    choice = CorrectionChoice(("none", "median", "image"))
    clean = {"none": 0.4, "median": 0.45, "image": 0.7}
    noisy = {"none": 1.6, "median": 0.6, "image": 1.4}
    run(choice, clean, 200)
    assert choice.chosen == "none"
    run(choice, noisy, 20)
    assert choice.chosen == "median"
    run(choice, {"none": 0.4, "median": 1.3, "image": 0.7}, 40)
    assert choice.chosen == "none"


def test_trials_cost_little_in_a_long_stream() -> None:
    choice = CorrectionChoice(("none", "median", "image", "stream"))
    doubts = {"none": 0.5, "median": 0.6, "image": 0.7, "stream": 0.6}
    run(choice, doubts, 500)
    images = 20_000
    assert run(choice, doubts, images) <= 1.05 * images


@pytest.mark.parametrize("doubt", [math.nan, math.inf])
def test_doubts_that_are_no_numbers_change_nothing(doubt: float) -> None:
    choice = CorrectionChoice(("none", "median"))
    run(choice, {"none": 1.0, "median": doubt}, 100)
    assert choice.chosen == "none"
    run(choice, {"none": 1.0, "median": 0.5}, FIRST)
    assert choice.chosen == "median"
    assert LATER > FIRST
