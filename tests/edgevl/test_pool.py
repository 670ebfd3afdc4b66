"""A student in training sees what a device would give it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from aligned_vq.data.crops import cut, random_crops, whole_images
from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.types import load_pair
from aligned_vq.edgevl.pool import PairArrays, StudentInput
from aligned_vq.edgevl.preparation import prepare_pairs
from aligned_vq.errors import ConfigError
from aligned_vq.images.depth import RangeSettings, student_processor, student_view
from aligned_vq.images.preprocess import normalize

SIDE_PX = 32
UNCHANGED = StudentInput(SIDE_PX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


def test_whole_images_are_those_of_a_device(rooms: Path, tmp_path: Path) -> None:
    source = open_pairs(f"scannet:{rooms}", "train")
    pairs = prepare_pairs(source, tmp_path / "pairs", SIDE_PX, RangeSettings())
    prepare, processor = StudentInput(SIDE_PX), student_processor(SIDE_PX)
    chosen = np.arange(4)
    made = prepare.other(pairs, chosen, whole_images(4)).numpy()
    colours = prepare.rgb(pairs, chosen, whole_images(4)).numpy()
    assert (pairs.other[:4] == 0).any()  # holes
    for index in range(4):
        loaded = load_pair(source[index], source.modality)
        for own, image in ((made, loaded.other), (colours, loaded.rgb)):
            view = student_view(image, processor, RangeSettings())
            np.testing.assert_allclose(own[index], normalize(view, processor), atol=1e-5)


@pytest.mark.parametrize(
    ("modality", "fixed", "words"),
    [
        ("depth", (700.0, 4000.0), "metres"),
        ("depth", (20.0, 40.0), r"expected a fixed range of depth in metres, got \(20"),
        ("infrared", (0.0, 0.5), "values as stored"),
    ],
)
def test_a_fixed_range_in_another_unit(
    rooms: Path, tmp_path: Path, modality: str, fixed: tuple[float, float], words: str
) -> None:
    source = open_pairs(f"scannet:{rooms}#{modality}", "train")
    with pytest.raises(ConfigError, match=words):
        prepare_pairs(source, tmp_path / "pairs", SIDE_PX, RangeSettings(fixed))
    assert not (tmp_path / "pairs").exists()
    fitting = (0.4, 6.0) if modality == "depth" else (0.0, 255.0)
    prepare_pairs(source, tmp_path / "pairs", SIDE_PX, RangeSettings(fitting))


def arrays(rgb: NDArray[np.uint8], other: NDArray[np.uint8]) -> PairArrays:
    """One pair."""
    return PairArrays(rgb[None], other[None], ["one"], [None])


def test_holes_do_not_bleed_into_what_is_beside_them() -> None:
    other = np.full((48, 48), 200, np.uint8)
    other[10:20, 10:20] = 0
    crops = random_crops(1, 0.6, np.random.default_rng(0))
    pairs = arrays(np.zeros((48, 48, 3), np.uint8), other)
    seen = (255 * UNCHANGED.other(pairs, np.array([0]), crops)).round()
    assert set(seen.flatten().tolist()) == {0, 200}


def test_crops_are_the_same_as_the_teachers() -> None:
    """Boxes and mirrors mean what `cut` makes of the same numbers."""
    slope = np.linspace(0, 255, 40)[None, :, None] * np.linspace(0.2, 1, 40)[:, None, None]
    rgb = np.repeat(slope, 3, 2).astype(np.uint8)
    pairs = arrays(rgb, np.full((40, 40), 9, np.uint8))
    crops = random_crops(12, 0.5, np.random.default_rng(1))
    for number in range(len(crops)):
        crop = crops[number : number + 1]
        made = UNCHANGED.rgb(pairs, np.array([0]), crop)
        torch.testing.assert_close(made, cut(rgb[None], crop, SIDE_PX), atol=0.03, rtol=0)
