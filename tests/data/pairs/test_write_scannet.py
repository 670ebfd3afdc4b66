"""Reference rooms are read through ScanNet's reader as they were rendered."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.data.pairs.sources import open_pairs
from aligned_vq.data.pairs.types import load_pair
from aligned_vq.data.pairs.write_scannet import RoomPart, open_rooms, write_rooms
from aligned_vq.data.rooms.examples import RoomSet
from aligned_vq.errors import ConfigError
from tests.data.source_files import assert_refused

LABELS = ("kitchen", "bedroom/hotel", "gym")
TRAIN = RoomSet("train", LABELS, side_px=40)
VALID = RoomSet("validation", LABELS, side_px=40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("rooms") / "new" / "scannet"
    write_rooms(made, RoomPart(TRAIN, 6), RoomPart(VALID, 2))
    return made


@pytest.mark.parametrize(("split", "rooms", "number"), [("train", TRAIN, 6), ("valid", VALID, 2)])
def test_rooms_come_back_as_they_were_rendered(
    folder: Path, split: str, rooms: RoomSet, number: int
) -> None:
    depths, infrareds = (open_rooms(folder, split, kind) for kind in ("depth", "infrared"))
    assert len(depths) == len(infrareds) == number
    for index in range(number):
        room = rooms[index]
        assert depths[index].label == room.label == LABELS[index % 3]
        rgb, depth = load_pair(depths[index], "depth")
        np.testing.assert_array_equal(depth.values[:, :, 0], room.depth_mm)
        _, infrared = load_pair(infrareds[index], "infrared")
        np.testing.assert_array_equal(infrared.values[:, :, 0], room.infrared)
        # JPEG is not exact.
        assert np.abs(rgb.values.astype(int) - room.rgb).mean() < 6


def test_the_files_are_those_of_the_layout(folder: Path) -> None:
    stems = (folder / "train_every_100th.txt").read_text().splitlines()
    assert stems[0] == "scene0000_00_00000"
    assert (folder / "valid_every_100th.txt").read_text().startswith("scene0006_00_00000\n")
    assert (folder / "train/scene_class/scene0001_00.txt").read_text() == "bedroom/hotel"
    for part, kind, mode in (
        ("rgb", "jpg", "RGB"),
        ("depth", "png", "I;16"),
        ("thermal", "png", "L"),
    ):
        assert sorted(path.stem for path in (folder / "train" / part).iterdir()) == stems
        with Image.open(folder / "train" / part / f"{stems[0]}.{kind}") as image:
            assert (image.mode, image.size) == (mode, (40, 40))


def test_every_room_is_a_scene_of_its_own(folder: Path) -> None:
    parts = [open_pairs(f"scannet:{folder}#infrared", split) for split in ("train", "valid")]
    scenes = [part[index].scene for part in parts for index in range(len(part))]
    assert len(set(scenes)) == 8


def test_a_second_writing_replaces_the_folder_and_nothing_else(tmp_path: Path) -> None:
    small = RoomSet("train", ("office",), side_px=16)
    other = RoomSet("train", ("office",), first_index=1, side_px=16)
    write_rooms(tmp_path / "rooms", RoomPart(small, 1), RoomPart(other, 1))
    write_rooms(tmp_path / "rooms", RoomPart(other, 2), RoomPart(small, 1))
    assert len(open_rooms(tmp_path / "rooms", "train")) == 2
    (tmp_path / "rooms" / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"notes\.txt"):
        write_rooms(tmp_path / "rooms", RoomPart(small, 1), RoomPart(other, 1))
    assert len(open_rooms(tmp_path / "rooms", "train")) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["rooms"]


def test_parts_without_rooms_or_with_common_rooms_are_refused(tmp_path: Path) -> None:
    later = RoomSet("train", LABELS, first_index=5)
    for valid, words in ((RoomPart(VALID, 0), "0 of valid"), (RoomPart(later, 3), "range(5, 8)")):
        write = partial(write_rooms, tmp_path / "a", RoomPart(TRAIN, 6), valid)
        assert_refused(write, words)
    assert list(tmp_path.iterdir()) == []
