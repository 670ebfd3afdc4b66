"""Images of other cameras keep their depth, their channels and their meaning."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.errors import InvalidInput
from aligned_vq.images.load import load_image, load_pixels
from aligned_vq.images.modality import Modality, Pixels

DEPTH_MM = np.array([[0, 500, 65_535], [7, 1_234, 3_000]], np.uint16)


def test_depth_files_keep_their_millimetres(tmp_path: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(DEPTH_MM).save(path)
    for source in (path, path.read_bytes(), Image.open(path), DEPTH_MM, DEPTH_MM[:, :, None]):
        pixels = load_pixels(source, "depth")
        assert pixels.modality == "depth"
        assert pixels.values.dtype == np.uint16
        np.testing.assert_array_equal(pixels.values[:, :, 0], DEPTH_MM)
        assert (pixels.height, pixels.width) == (2, 3)


def test_depth_in_metres_is_float32(tmp_path: Path) -> None:
    metres = (DEPTH_MM / 1000).astype(np.float32)
    path = tmp_path / "depth.tif"
    Image.fromarray(metres).save(path)
    np.testing.assert_array_equal(load_pixels(path, "depth").values[:, :, 0], metres)
    np.testing.assert_array_equal(load_pixels(metres, "depth").values[:, :, 0], metres)


def test_an_infrared_photograph_in_colour_becomes_luma() -> None:
    written = io.BytesIO()
    Image.new("RGB", (4, 3), (90, 90, 90)).save(written, "PNG")
    pixels = load_pixels(written.getvalue(), "infrared")
    assert pixels.values.shape == (3, 4, 1)
    assert pixels.values.dtype == np.uint8
    assert (pixels.values == 90).all()


def test_the_orientation_of_a_camera_is_applied_to_every_modality(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(DEPTH_MM).save(tmp_path / "depth.png", exif=exif)
    turned = load_pixels(tmp_path / "depth.png", "depth").values[:, :, 0]
    np.testing.assert_array_equal(turned, np.rot90(DEPTH_MM, -1))


def test_spectral_bands_are_arrays_of_any_number_of_channels() -> None:
    bands = np.arange(2 * 3 * 13, dtype=np.uint16).reshape(2, 3, 13)
    np.testing.assert_array_equal(load_pixels(bands, "bands").values, bands)
    with pytest.raises(InvalidInput, match="array \\[H, W, C\\] of spectral bands"):
        load_pixels("bands.tif", "bands")


def test_rgb_pixels_are_those_of_the_image() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8)
    np.testing.assert_array_equal(load_pixels(noise).values, np.asarray(load_image(noise)))


@pytest.mark.parametrize(
    ("values", "modality"),
    [
        (np.zeros((2, 3, 3), np.uint16), "depth"),
        (np.zeros((2, 3), np.uint8), "depth"),
        (np.zeros((2, 3, 1), np.float64), "infrared"),
        (np.zeros((0, 3), np.uint16), "depth"),
        (np.zeros((2,), np.uint16), "depth"),
        (np.zeros((2, 3, 4, 5), np.uint8), "bands"),
    ],
)
def test_pixels_of_another_form_are_refused(values: np.ndarray, modality: Modality) -> None:
    with pytest.raises(InvalidInput, match="expected"):
        load_pixels(values, modality)


def test_rgb_pixels_have_three_channels_of_eight_bits() -> None:
    for values in (np.zeros((2, 3, 1), np.uint8), np.zeros((2, 3, 3), np.float32)):
        with pytest.raises(InvalidInput, match="rgb"):
            Pixels(values)


def test_a_damaged_depth_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "cut.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 9999, (64, 64)).astype(np.uint16)).save(
        path
    )
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(InvalidInput, match=r"cut\.png"):
        load_pixels(path, "depth")
