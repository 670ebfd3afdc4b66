"""Every official layout is read as it is written, and what is wrong in it is named."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from aligned_vq.data.pairs.scannet import read_scannet
from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.types import Pair, PairPixels, PairSource, load_pair
from aligned_vq.errors import ConfigError, InvalidInput
from tests.data.pairs import layouts
from tests.data.source_files import assert_refused


def pixels(source: PairSource, index: int) -> PairPixels:
    return load_pair(source[index], source.modality)


def names(source: PairSource) -> list[str]:
    return [source[index].name for index in range(len(source))]


def labels(source: PairSource) -> list[str | None]:
    return [source[index].label for index in range(len(source))]


def test_scannet(tmp_path: Path) -> None:
    folder = layouts.scannet(tmp_path)
    source = open_pairs(f"scannet:{folder}", "train")
    assert names(source) == (folder / "train_every_100th.txt").read_text().split()
    assert labels(source) == ["apartment", "apartment", "apartment", "bedroom / hotel"]
    scenes = [source[index].scene for index in range(len(source))]
    assert scenes == ["scene0000", "scene0000", "scene0000", "scene0002"]
    rgb, depth = pixels(source, 2)
    assert (rgb.height, rgb.width) == (242, 324)
    assert (rgb.values == 20).all()
    np.testing.assert_array_equal(depth.values[:, :, 0], layouts.depth(3000, 48, 64))
    valid = open_pairs(f"scannet:{folder}", "valid")
    assert (len(valid), valid[0].label, valid.modality) == (1, "misc", "depth")


def test_scannet_with_flat_stems(tmp_path: Path) -> None:
    layouts.write(tmp_path / "train_every_100th.txt", "scene0707_00_00100\n")
    layouts.write(tmp_path / "train/scene_class/scene0707_00.txt", "gym")
    layouts.save(tmp_path / "train/rgb/scene0707_00_00100.jpg", layouts.colour(1))
    layouts.save(tmp_path / "train/depth/scene0707_00_00100.png", layouts.depth(900))
    (pair,) = read_scannet(tmp_path, "train").pairs
    assert (pair.label, pair.scene) == ("gym", "scene0707")


def test_nyu2(tmp_path: Path) -> None:
    source = open_pairs(f"nyu2:{layouts.nyu2(tmp_path)}", "test")
    assert names(source) == ["0001", "1449"]
    assert labels(source) == ["living_room"] * 2
    rgb, depth = pixels(source, 1)
    assert (rgb.values == 1449 % 256).all()
    np.testing.assert_array_equal(depth.values[:, :, 0], layouts.depth(1449))


def test_sun_rgbd(tmp_path: Path) -> None:
    source = open_pairs(f"sun_rgbd:{layouts.sun_rgbd(tmp_path)}", "train")
    assert labels(source) == ["bathroom", "dining_area"]
    np.testing.assert_array_equal(pixels(source, 0).other.values[:, :, 0], layouts.depth(4000))


def test_eurosat(tmp_path: Path) -> None:
    source = open_pairs(f"eurosat:{layouts.eurosat(tmp_path)}", "train")
    assert names(source) == ["Forest/Forest_1", "River/River_2"]
    assert labels(source) == ["Forest", "River"]
    assert source.modality == "infrared"
    rgb, infrared = pixels(source, 0)
    assert (rgb.values == 20).all()
    assert infrared.values.shape == (64, 64, 1)
    assert (infrared.values == 101).all()


def test_folders(tmp_path: Path) -> None:
    for name, shade in (("kitchen/a", 1), ("kitchen/b", 2), ("c", 3)):
        layouts.save(tmp_path / f"train/rgb/{name}.jpg", layouts.colour(shade))
        layouts.save(tmp_path / f"train/depth/{name}.png", layouts.depth(1000 * shade))
        layouts.save(tmp_path / f"train/infrared/{name}.tif", layouts.colour(shade)[:, :, 0])
    layouts.write(tmp_path / "train/rgb/notes.txt", "no image")
    layouts.write(tmp_path / "train/depth/._c.png", "no image")
    source = open_pairs(f"folders:{tmp_path}", "train")
    assert names(source) == ["c", "kitchen/a", "kitchen/b"]
    assert labels(source) == [None, "kitchen", "kitchen"]
    np.testing.assert_array_equal(pixels(source, 2).other.values[:, :, 0], layouts.depth(2000))
    infrared = open_pairs(f"folders:{tmp_path}#infrared", "train")
    assert infrared.modality == "infrared"
    assert (pixels(infrared, 2).other.values == 2).all()


@pytest.mark.parametrize(
    "spec",
    ["scannet", "scannet:", "kitti:/x", "nyu2:/x#infrared", "scannet:/x#", "folders:/x#thermal"],
)
def test_unknown_specs_are_refused(spec: str) -> None:
    assert_refused(partial(open_pairs, spec, "train"), "sun_rgbd:FOLDER", repr(spec))


@pytest.mark.parametrize("kind", ["scannet", "nyu2", "sun_rgbd", "eurosat", "folders"])
def test_missing_folders_are_named(tmp_path: Path, kind: str) -> None:
    assert_refused(partial(open_pairs, f"{kind}:{tmp_path / 'none'}", "train"), tmp_path / "none")


@pytest.mark.parametrize("kind", ["scannet", "nyu2", "sun_rgbd", "eurosat"])
def test_unknown_splits_are_named(tmp_path: Path, kind: str) -> None:
    assert_refused(partial(open_pairs, f"{kind}:{tmp_path}", "validation"), "'validation'", "train")


MAKERS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "scannet": (layouts.scannet, "train/depth/structureio_968x1296/scene0002_00/00000.png"),
    "nyu2": (layouts.nyu2, "train/rgb/0005.png"),
    "sun_rgbd": (layouts.sun_rgbd, "train/depth/dining_area__kv1_NYUdata_NYU0001.png"),
    "eurosat": (layouts.eurosat, "EuroSAT_SWIR/River/River_2.jpg"),
}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_missing_half_is_named_at_the_start(tmp_path: Path, kind: str) -> None:
    make, lost = MAKERS[kind]
    (make(tmp_path) / lost).unlink()
    stem = lost.rsplit("/", 1)[-1].split(".")[0]
    assert_refused(partial(open_pairs, f"{kind}:{tmp_path}", "train"), stem)


@pytest.mark.parametrize("kind", MAKERS)
def test_a_damaged_half_is_named(tmp_path: Path, kind: str) -> None:
    make, lost = MAKERS[kind]
    path = make(tmp_path) / lost
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    open_ = partial(open_pairs, f"{kind}:{tmp_path}", "train")
    assert_refused(open_, path, kind=InvalidInput)


def test_labels_that_are_missing_or_empty_are_named(tmp_path: Path) -> None:
    label = layouts.nyu2(tmp_path) / "train/scene_class/0004.txt"
    label.write_text("\n")
    assert_refused(partial(open_pairs, f"nyu2:{tmp_path}", "train"), label, "first line")
    label.unlink()
    assert_refused(partial(open_pairs, f"nyu2:{tmp_path}", "train"), label)


@pytest.mark.parametrize(
    ("kind", "name", "text", "words"),
    [
        ("scannet", "train_every_100th.txt", "scene0000_00\n", "'scene0000_00'"),
        ("scannet", "train_every_100th.txt", "\n", "one a line"),
        ("nyu2", "train.txt", "three\n", "'three'"),
        ("nyu2", "train.txt", "3\n4\n3\n", "'3' 2 times"),
        ("eurosat", "train.txt", "River_2.jpg\n", "CLASS/NAME.jpg"),
    ],
)
def test_malformed_lists_are_named(
    tmp_path: Path, kind: str, name: str, text: str, words: str
) -> None:
    path = MAKERS[kind][0](tmp_path) / name
    path.write_text(text)
    assert_refused(partial(open_pairs, f"{kind}:{tmp_path}", "train"), path, words)


def test_sun_rgbd_without_a_label(tmp_path: Path) -> None:
    for part, suffix in (("rgb", "jpg"), ("depth", "png")):
        layouts.save(tmp_path / f"train/{part}/NYU0001.{suffix}", layouts.colour(1))
    assert_refused(partial(open_pairs, f"sun_rgbd:{tmp_path}", "train"), "double underscore")


def test_depth_of_eight_bits_is_refused(tmp_path: Path) -> None:
    path = layouts.sun_rgbd(tmp_path) / "train/depth/bathroom__xtion_sun3ddata__a_0003.png"
    layouts.save(path, layouts.colour(9)[:, :, 0])
    open_ = partial(open_pairs, f"sun_rgbd:{tmp_path}", "train")
    assert_refused(open_, path, "uint8", "millimetres", kind=InvalidInput)


def test_halves_of_another_aspect_are_refused(tmp_path: Path) -> None:
    rgb = layouts.save(tmp_path / "a.jpg", layouts.colour(1, 48, 64))
    pair = Pair("a", rgb, tmp_path / "a.png", None, "a")
    for width, fits in ((128, True), (130, True), (133, False), (96, False)):
        layouts.save(pair.other, layouts.depth(1000, 96, width))
        if fits:
            assert load_pair(pair, "depth").other.width == width
        else:
            assert_refused(
                partial(load_pair, pair, "depth"), "pair a", f"{width} x 96", kind=InvalidInput
            )


def test_a_half_that_vanishes_is_named(tmp_path: Path) -> None:
    rgb = layouts.save(tmp_path / "a.jpg", layouts.colour(1))
    pair = Pair("a", rgb, tmp_path / "gone.png", None, "a")
    with pytest.raises(ConfigError, match=r"pair a: .*gone\.png"):
        load_pair(pair, "depth")


def test_folders_whose_names_differ(tmp_path: Path) -> None:
    layouts.save(tmp_path / "train/rgb/a.jpg", layouts.colour(1))
    layouts.save(tmp_path / "train/depth/b.png", layouts.depth(1))
    assert_refused(partial(open_pairs, f"folders:{tmp_path}", "train"), "a.jpg", "counterpart")
    layouts.save(tmp_path / "train/rgb/a.png", layouts.colour(1))
    assert_refused(partial(open_pairs, f"folders:{tmp_path}", "train"), "a.jpg", "a.png")
