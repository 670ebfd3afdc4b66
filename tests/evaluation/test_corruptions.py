"""Images in bad conditions."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from aligned_vq.data.rooms.examples import RoomSet
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.corruptions.choice import CORRUPTIONS, SEVERITIES, corrupt


@pytest.fixture(scope="module")
def room() -> NDArray[np.uint8]:
    return RoomSet("train", ("kitchen",), side_px=224)[0].rgb


def changed(image: NDArray[np.uint8], name: str, severity: int, seed: int = 0) -> NDArray[np.uint8]:
    return corrupt(image, name, severity, np.random.default_rng(seed))


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_severity_takes_the_image_away(room: NDArray[np.uint8], name: str) -> None:
    before = room.copy()
    images = [changed(room, name, severity) for severity in SEVERITIES]
    assert (room == before).all()
    for image in images:
        assert image.shape == room.shape
        assert image.dtype == np.uint8
    likeness = [np.corrcoef(image.ravel(), room.ravel())[0, 1] for image in images]
    assert likeness[0] > 0.15
    # Of elastic, severities are kinds of deformation rather than steps.
    assert name == "elastic" or likeness[4] < likeness[0] or name in ("brightness", "contrast")
    distance = [np.abs(image.astype(float) - room).mean() for image in images]
    assert min(distance) > 1
    assert name in ("elastic", "frost") or distance[4] > 1.2 * distance[0]


@pytest.mark.parametrize("name", CORRUPTIONS)
def test_the_generator_decides_on_everything_random(room: NDArray[np.uint8], name: str) -> None:
    np.random.seed(1)
    one = changed(room, name, 3)
    np.random.seed(2)
    assert (changed(room, name, 3) == one).all()
    is_fixed = name in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg")
    assert (changed(room, name, 3, seed=1) == one).all() == is_fixed


@pytest.mark.parametrize("name", CORRUPTIONS)
@pytest.mark.parametrize("shape", [(8, 300), (33, 1), (1, 1)])
@pytest.mark.parametrize("value", [0, 255])
def test_odd_sizes_and_constant_images(name: str, shape: tuple[int, int], value: int) -> None:
    image = np.full((*shape, 3), value, np.uint8)
    for severity in (1, 5):
        assert changed(image, name, severity).shape == image.shape


@pytest.mark.parametrize(("name", "severity"), [("rain", 3), ("fog", 0), ("fog", 6)])
def test_unknown_conditions(room: NDArray[np.uint8], name: str, severity: int) -> None:
    with pytest.raises(ConfigError, match=f"expected one of gaussian_noise, .* got '{name}' at"):
        changed(room, name, severity)
