"""A small teacher with random weights, and a few rooms on disk."""

from __future__ import annotations

from pathlib import Path

import pytest

from aligned_vq.data.pairs.write_scannet import RoomPart, write_rooms
from aligned_vq.data.rooms.examples import RoomSet
from tests.dual_encoder.conftest import small_clip as small_clip

LABELS = ("kitchen", "gym", "stairs", "bathroom")
TRAINED, TESTED = 40, 8


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rooms in ScanNet's layout."""
    folder = tmp_path_factory.mktemp("rooms") / "scannet"
    write_rooms(
        folder,
        RoomPart(RoomSet("train", LABELS, side_px=48), TRAINED),
        RoomPart(RoomSet("test", LABELS, side_px=48), TESTED),
    )
    return folder


@pytest.fixture(scope="session")
def labels_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The labels of the rooms, one per line."""
    path = tmp_path_factory.mktemp("labels") / "labels.txt"
    path.write_text("\n".join(LABELS))
    return path
