from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.llava.image_processing_pil_llava import LlavaImageProcessorPil

from aligned_vq.errors import InvalidInput
from aligned_vq.images import preprocess as module
from aligned_vq.images.load import load_image
from aligned_vq.images.preprocess import preprocess
from aligned_vq.images.processor import ProcessorSettings

CLIP_336 = ProcessorSettings(size=336, crop_size=(336, 336))
CLIP_224 = ProcessorSettings()
LLAVA_336 = ProcessorSettings(size=336, crop_size=(336, 336), do_pad=True)
CLIP_112 = ProcessorSettings(size=112, crop_size=(112, 112))
EVERYDAY = (CLIP_336, CLIP_224, LLAVA_336)
UNUSUAL = (
    ProcessorSettings(size=(50, 71), do_center_crop=False, resample=2),
    ProcessorSettings(size=50, do_center_crop=False, do_pad=True, resample=1),
    ProcessorSettings(size=61, crop_size=(90, 33)),
    ProcessorSettings(do_resize=False, crop_size=(30, 41)),
    ProcessorSettings(do_resize=False, crop_size=(30, 41), do_pad=True),
    ProcessorSettings(size=(40, 60), crop_size=(51, 51), do_pad=True, resample=2),
    ProcessorSettings(size=40, crop_size=(40, 40), do_normalize=False, resample=1),
    ProcessorSettings(size=40, crop_size=(40, 40), do_rescale=False),
)


@cache
def reference(settings: ProcessorSettings) -> Any:
    kind = LlavaImageProcessorPil if settings.do_pad else CLIPImageProcessorPil
    return kind(**settings.to_dict())


def expected(image: Image.Image, settings: ProcessorSettings) -> NDArray[np.float32]:
    batch = reference(settings)(image, return_tensors="np")
    return np.asarray(batch["pixel_values"][0], np.float32)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def levels(pixels: NDArray[np.float32], settings: ProcessorSettings) -> NDArray[np.float32]:
    """The 0 to 255 levels before normalisation."""
    std, mean = (np.array(v, np.float32) for v in (settings.image_std, settings.image_mean))
    return (pixels * std[:, None, None] + mean[:, None, None]) * np.float32(255)


def window_difference(
    image: Image.Image, settings: ProcessorSettings, monkeypatch: pytest.MonkeyPatch
) -> NDArray[np.float32]:
    """In levels, between the reference and the crop computed alone."""
    with monkeypatch.context() as patch:
        patch.setattr(module, "WHOLE_PIXELS", 0)
        result = preprocess(image, settings)
    difference = levels(result, settings) - levels(expected(image, settings), settings)
    magnitude: NDArray[np.float32] = np.abs(difference)
    return magnitude


SIZES = [
    (336, 336),
    (224, 224),
    (640, 480),
    (481, 641),
    (337, 335),
    (101, 100),
    (100, 103),
    (17, 5),
    (1, 1),
    (2, 500),
    (500, 2),
    (1, 90),
    (1001, 333),
]


@pytest.mark.parametrize("settings", EVERYDAY, ids=["clip-336", "clip-224", "llava-336"])
@pytest.mark.parametrize(("width", "height"), SIZES)
def test_equals_the_reference_bit_for_bit(
    width: int, height: int, settings: ProcessorSettings
) -> None:
    image = picture(width, height)
    result = preprocess(image, settings)
    assert result.dtype == np.float32
    assert result.shape == (3, *settings.output_size)
    reference_pixels = expected(image, settings)
    if (min(width, height), settings) == (2, CLIP_336):
        difference = levels(result, settings) - levels(reference_pixels, settings)
        assert np.abs(difference).max() <= 1.001  # 336 x 84000: only its crop was computed
    else:
        np.testing.assert_array_equal(result, reference_pixels)


@hypothesis_settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(1, 160),
    st.integers(1, 160),
    st.sampled_from((*UNUSUAL, CLIP_224)),
    st.integers(0, 9),
)
@example(1, 1, UNUSUAL[3], 0)
@example(160, 1, UNUSUAL[4], 0)
@example(1, 160, UNUSUAL[5], 0)
def test_equals_the_reference_at_any_size_and_setting(
    width: int, height: int, settings: ProcessorSettings, seed: int
) -> None:
    image = picture(width, height, seed)
    np.testing.assert_array_equal(preprocess(image, settings), expected(image, settings))


@pytest.mark.parametrize("settings", [CLIP_224, LLAVA_336])
@pytest.mark.parametrize("mode", ["L", "P", "CMYK", "RGBA", "LA", "1"])
def test_loading_and_preparing_equals_the_reference_in_other_modes(
    mode: str, settings: ProcessorSettings
) -> None:
    image = picture(70, 51)
    if "A" in mode:
        image.putalpha(picture(70, 51, 1).convert("L"))
    image = image.convert(mode)
    result = preprocess(load_image(image), settings)
    np.testing.assert_array_equal(result, expected(image, settings))


def test_sixteen_bit_gray_equals_its_eight_bit_twin() -> None:
    gray = np.asarray(picture(70, 51).convert("L"))
    deep = load_image(gray.astype(np.uint16) * 257)
    np.testing.assert_array_equal(
        preprocess(deep, CLIP_224), expected(Image.fromarray(gray), CLIP_224)
    )


@pytest.mark.parametrize("settings", [LLAVA_336, UNUSUAL[1]])
@pytest.mark.parametrize(("width", "height"), [(3000, 41), (41, 3000), (1999, 1500), (1, 2500)])
def test_padding_in_strips_changes_no_bit(
    width: int, height: int, settings: ProcessorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WHOLE_PIXELS", 0)
    monkeypatch.setattr(module, "STRIP_PIXELS", 50_000)
    image = picture(width, height)
    np.testing.assert_array_equal(preprocess(image, settings), expected(image, settings))


@pytest.mark.parametrize("resample", [1, 2, 3])
@pytest.mark.parametrize(
    ("width", "height"),
    [(1, 1500), (1500, 1), (7, 900), (901, 5), (2600, 260), (70, 51), (112, 700)],
)
def test_a_window_is_within_one_level_of_the_whole(
    width: int, height: int, resample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(CLIP_112, resample=resample)
    image = picture(width, height)
    difference = window_difference(image, settings, monkeypatch)
    assert difference.max() <= 1.001
    assert (difference > 0.5).mean() < 0.01


@pytest.mark.parametrize("resample", [1, 2, 3])
def test_a_window_of_a_shrinking_tall_image(resample: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = replace(CLIP_112, resample=resample)
    smooth = picture(8, 100).resize((250, 3001), Image.Resampling.BILINEAR)
    assert window_difference(smooth, settings, monkeypatch).max() <= 2.001
    # Of pure noise the filters overshoot, and Pillow clips between its two passes.
    difference = window_difference(picture(250, 3001), settings, monkeypatch)
    assert difference.max() < 12
    assert difference.mean() < 0.5


@pytest.mark.parametrize("settings", [UNUSUAL[2], replace(CLIP_112, size=60)])
def test_a_window_holds_beside_surrounding_zeros(
    settings: ProcessorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for size in ((93, 41), (41, 93), (900, 30)):
        assert window_difference(picture(*size), settings, monkeypatch).max() <= 1.001


@pytest.mark.parametrize(
    ("width", "height"), [(20_000, 1), (1, 20_000), (1_000_000, 3), (1, 2**24), (2**26, 1)]
)
def test_lines_are_prepared_in_bounded_memory(width: int, height: int) -> None:
    # Along a line of slowly rising gray the centre is mid-gray whatever the resizing.
    ramp = np.linspace(0, 255, max(width, height)).round().astype(np.uint8)
    shape = (height, width)
    gray = np.broadcast_to(ramp[None, :] if width > height else ramp[:, None], shape)
    image = Image.fromarray(np.ascontiguousarray(gray)).convert("RGB")
    result = levels(preprocess(image, CLIP_336), CLIP_336)
    assert result.shape == (3, 336, 336)
    np.testing.assert_allclose(result, 127.5, atol=0.51)


def test_the_centre_of_a_line_is_not_misplaced() -> None:
    # One red pixel in the middle of a long line spreads symmetrically over the whole crop.
    line = np.zeros((1, 4_000_001, 3), np.uint8)
    line[0, 2_000_000] = (255, 0, 0)
    settings = ProcessorSettings(size=336, crop_size=(336, 336), resample=2)
    red, green, blue = levels(preprocess(Image.fromarray(line), settings), settings)
    rise = 255 * (np.arange(168) + 168.5) / 336
    np.testing.assert_allclose(red[0], np.concatenate([rise, rise[::-1]]), atol=1)
    assert max(np.abs(green).max(), np.abs(blue).max()) < 0.01


def test_padding_an_endless_line_is_refused() -> None:
    with pytest.raises(InvalidInput, match=r"at most 32768 pixels.*got 40000: send"):
        preprocess(Image.new("RGB", (40_000, 1)), LLAVA_336)


def test_images_that_cannot_be_prepared_are_refused() -> None:
    with pytest.raises(InvalidInput, match="got 5 x 0"):
        preprocess(Image.new("RGB", (5, 0)), CLIP_224)
    with pytest.raises(InvalidInput, match="mode L: load it"):
        preprocess(Image.new("L", (5, 5)), ProcessorSettings(do_convert_rgb=False))


def test_the_modules_load_no_framework() -> None:
    code = (
        "import sys, aligned_vq.images.preprocess, aligned_vq.images.load\n"
        "print([m for m in ('torch', 'transformers', 'grpc') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert result.stdout.strip() == "[]"
