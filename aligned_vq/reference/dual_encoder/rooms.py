"""The rooms that the reference student learns from and is tested on, in ScanNet's layout."""

from __future__ import annotations

from pathlib import Path

from aligned_vq.data.pairs.write_scannet import RoomPart, write_rooms
from aligned_vq.data.rooms.examples import RoomSet, all_labels
from aligned_vq.data.rooms.kinds import room_kinds
from aligned_vq.data.rooms.scenes import SPLITS, STYLES
from aligned_vq.errors import ConfigError

UNSEEN = ("bookstore/library", "copy/mail room", "gym", "laundry room", "stairs")
"""Of ScanNet's classes: these never occur in what a student is trained on."""
MIXED = "misc"
"""Rooms of any furniture: the only ones in which students see some of the furniture of `UNSEEN`."""
MIXED_SHARE = 0.25
"""Of the rooms that students learn from. What people collect without labels is mixed, too."""
STUDENT_FIRST_INDEX = 1_000_000
"""Of the split `train`: the teacher has learned from rooms below this index."""


def write_student_rooms(
    folder: Path, train: int, valid: int, *, style: str = "first", split: str = "test"
) -> None:
    """Write `train` rooms of every kind but `UNSEEN`, and `valid` rooms of ScanNet's 21.

    Args:
        folder: to write.
        train: number of rooms in the part `train`, always of the first style.
        valid: number of rooms in the part `valid`.
        style: of the rooms in `valid`: "first" or "second".
        split: they come from: "validation", "test" or "holdout".

    Raises:
        ConfigError: an unknown style or split, or a number below 1.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    splits = {name: name for name in SPLITS if name != "train"}
    styles = {name: name for name in STYLES}
    if split not in splits or style not in styles:
        raise ConfigError(
            f"expected one of the styles {', '.join(styles)} and one of the splits "
            f"{', '.join(splits)}, got {style!r} and {split!r}"
        )
    write_rooms(
        folder,
        RoomPart(RoomSet("train", _student_labels(), first_index=STUDENT_FIRST_INDEX), train),
        RoomPart(RoomSet(splits[split], tuple(room_kinds().scannet), styles[style]), valid),
    )


def _student_labels() -> tuple[str, ...]:
    """Kinds of rooms to learn from, by turns."""
    seen = tuple(label for label in all_labels() if label not in UNSEEN)
    mixed = round(len(seen) * MIXED_SHARE / (1 - MIXED_SHARE))
    return seen + (MIXED,) * mixed
