"""Depth and infrared images of the reference world."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pytest

from aligned_vq.data.scenes.cameras import (
    FARTHEST_M,
    NEAREST_M,
    depth_image,
    infrared_image,
)
from aligned_vq.data.scenes.scene import COLOURS, Scene, render, sample_scene, scene_rng

RGB_DIGESTS = {
    0: "cbd023d8a658f84ed680a69a43cbb3b9db1342f602e9a2c82f821294206c3319",
    7: "f092af1634970f2a3c1797a4eb3379dc74f57d293a3582d6d4a6bfebff937533",
}
"""SHA-256 of scenes of the test split, of before there were other cameras."""


def drawn(count: int) -> list[Scene]:
    """Scenes with several objects."""
    scenes = (sample_scene(scene_rng("test", index)) for index in range(4 * count))
    return [scene for scene in scenes if len(scene.objects) > 1][:count]


@pytest.mark.parametrize("index", RGB_DIGESTS)
def test_colour_images_are_unchanged(index: int) -> None:
    scene = sample_scene(scene_rng("test", index))
    rendering = render(scene)
    depth_image(scene, rendering.object_map)
    infrared_image(scene, rendering.object_map)
    for pixels in (rendering.pixels, render(scene).pixels):
        assert hashlib.sha256(pixels.tobytes()).hexdigest() == RGB_DIGESTS[index]


def test_both_images_follow_from_the_scene() -> None:
    scene = drawn(1)[0]
    object_map = render(scene).object_map
    for image, dtype in ((depth_image, np.uint16), (infrared_image, np.uint8)):
        one, other = (image(scene, object_map).values for _ in range(2))
        assert one.dtype == dtype
        assert one.shape == (336, 336, 1)
        assert np.array_equal(one, other)


def test_objects_stand_before_each_other_and_before_the_wall() -> None:
    for scene in drawn(10):
        object_map = render(scene).object_map
        depth = depth_image(scene, object_map).values[:, :, 0].astype(np.int64)
        valid = depth > 0
        assert 0.9 < valid.mean() < 1
        assert depth[valid].min() > 1000 * NEAREST_M
        assert depth[valid].max() < 1000 * FARTHEST_M
        # From the wall (-1) to the front: every object is nearer by more than the noise of both.
        for number in range(len(scene.objects)):
            behind = depth[valid & (object_map == number - 1)]
            item = depth[valid & (object_map == number)]
            assert np.percentile(item, 98) < np.percentile(behind, 2)


def test_objects_differ_from_each_other_in_infrared() -> None:
    for scene in drawn(10):
        object_map = render(scene).object_map
        grey = infrared_image(scene, object_map).values[:, :, 0]
        means = [grey[object_map == number].mean() for number in range(-1, len(scene.objects))]
        assert min(means) == means[0]
        assert np.diff(sorted(means)).min() > 5


@pytest.mark.parametrize("image", [depth_image, infrared_image])
def test_neither_camera_sees_colours(image: object) -> None:
    assert callable(image)
    for scene in drawn(3):
        object_map = render(scene).object_map
        names = list(COLOURS)
        others = tuple(
            replace(item, colour=names[(names.index(item.colour) + 3) % len(names)])
            for item in scene.objects
        )
        repainted = replace(scene, objects=others)
        assert np.array_equal(render(repainted).object_map, object_map)
        assert np.array_equal(image(scene, object_map).values, image(repainted, object_map).values)
