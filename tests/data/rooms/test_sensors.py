"""Sensors of the reference rooms err as real ones do."""

from __future__ import annotations

import numpy as np
import pytest

from aligned_vq.data.rooms.render import RoomImages, render
from aligned_vq.data.rooms.scenes import sample_camera, sample_room, scene_rng
from aligned_vq.data.rooms.sensors import DEPTH_RANGE_M, depth_camera, thermal_camera

SHAPE = (96, 96)


def flat(depth_m: float, celsius: float = 20.0) -> RoomImages:
    """A wall at one distance and temperature."""
    full = np.full(SHAPE, depth_m, np.float32)
    return RoomImages(
        np.zeros((*SHAPE, 3), np.uint8),
        full,
        np.full(SHAPE, celsius, np.float32),
        np.zeros(SHAPE, np.int16),
    )


@pytest.mark.parametrize("distance", [1.0, 3.0, 6.0])
def test_depth_is_in_millimetres_with_noise_that_grows_with_distance(distance: float) -> None:
    depth = depth_camera(flat(distance), np.random.default_rng(0))
    assert depth.dtype == np.uint16
    valid = depth[depth > 0].astype(float)
    sigma_mm = 1.2 + 1.9 * (distance - 0.4) ** 2
    step_mm = 1.5 * distance**2
    assert np.median(valid) == pytest.approx(1000 * distance, abs=step_mm + sigma_mm / 5)
    assert valid.std() == pytest.approx(np.hypot(sigma_mm, step_mm / 12**0.5), rel=0.15)


@pytest.mark.parametrize("distance", [DEPTH_RANGE_M[0] / 2, DEPTH_RANGE_M[1] * 1.1])
def test_there_is_no_depth_out_of_range(distance: float) -> None:
    assert (depth_camera(flat(distance), np.random.default_rng(0)) == 0).all()


def test_edges_have_holes() -> None:
    scene = flat(2.0)
    scene.depth_m[:, 48:] = 4.0
    holes = np.stack([depth_camera(scene, np.random.default_rng(seed)) == 0 for seed in range(20)])
    assert holes[:, :, 47:49].mean() > 0.4
    assert holes[:, :, :40].mean() < 0.15


def test_a_thermal_image_shows_what_is_warm_whatever_its_colour() -> None:
    scene = flat(2.0)
    scene.celsius[30:60, 30:60] = 40.0
    grey = thermal_camera(scene.celsius, np.random.default_rng(0))
    assert grey.shape == SHAPE
    assert grey.dtype == np.uint8
    assert grey[35:55, 35:55].min() > grey[70:, 70:].max()


def test_both_sensors_follow_from_the_seed() -> None:
    images = []
    for _ in range(2):
        rng = scene_rng("test", 5)
        room, layout = sample_room("office", rng)
        rendering = render(room, sample_camera(layout, rng, 33), rng)
        images.append((depth_camera(rendering, rng), thermal_camera(rendering.celsius, rng)))
    for one, other in zip(*images, strict=True):
        assert one.shape == (33, 33)
        assert np.array_equal(one, other)
