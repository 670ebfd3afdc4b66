"""Examples follow from their index alone, and a pool holds exactly them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from aligned_vq.data.rooms.examples import RoomSet, caption, furniture_names
from aligned_vq.data.rooms.pool import RoomPool

LABELS = ("kitchen", "stairs", "gym")
SIDE_PX = 40


def test_a_room_is_the_same_each_time_and_in_no_two_sets() -> None:
    rooms = RoomSet("train", LABELS, side_px=SIDE_PX)
    later = RoomSet("train", LABELS, first_index=2, side_px=SIDE_PX)
    once, again = rooms[5], rooms[5]
    assert once.label == "gym"
    assert once.caption == again.caption
    for name in ("rgb", "depth_mm", "infrared", "shown"):
        np.testing.assert_array_equal(getattr(once, name), getattr(again, name))
    # The same room, because its index in the split is the same, if the label is.
    assert later[1].label == "stairs"
    assert not np.array_equal(rooms[4].rgb, RoomSet("test", LABELS, side_px=SIDE_PX)[4].rgb)


def test_a_camera_does_not_stand_where_it_measures_nothing() -> None:
    # Its first camera is nearer to a boiler than a depth camera measures.
    room = RoomSet("train", ("boiler room",), first_index=1_004_720)[0]
    assert (room.depth_mm > 0).mean() > 0.9


def test_captions_name_the_kind_or_what_is_seen() -> None:
    rng = np.random.default_rng(0)
    drawn = {caption("office", ["desk", "arcade machine"], rng) for _ in range(200)}
    assert "a photo of an office" in drawn
    assert "an office with a desk and an arcade machine" in drawn
    assert "a room with an arcade machine and a desk" in drawn
    assert {caption("office", [], rng) for _ in range(20)} == {"a photo of an office"}


def test_only_furniture_in_view_is_named() -> None:
    rooms = RoomSet("train", LABELS, side_px=SIDE_PX)
    for index in range(30):
        room = rooms[index]
        _, things, seen = room.caption.partition(" with ")
        if not things:
            continue
        for name in seen.split(" and "):
            noun = name.split(" ", 1)[1]
            number = furniture_names().index(noun)
            assert (room.shown == number).mean() >= 0.004, noun


def test_a_pool_is_rendered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rooms = RoomSet("validation", LABELS, side_px=SIDE_PX)
    pool = RoomPool(tmp_path / "pool", rooms, 5)
    assert len(pool) == 5
    for index in range(5):
        example = rooms[index]
        assert (pool.labels[index], pool.captions[index]) == (example.label, example.caption)
        for name in ("rgb", "depth_mm", "infrared", "shown"):
            np.testing.assert_array_equal(getattr(pool, name)[index], getattr(example, name))
    monkeypatch.setattr("aligned_vq.data.rooms.pool._render", None)
    assert RoomPool(tmp_path / "pool", rooms, 5).captions == pool.captions
