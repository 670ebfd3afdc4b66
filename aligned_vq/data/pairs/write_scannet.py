"""Reference rooms as files in ScanNet's layout, so that whatever reads ScanNet reads them.

See `scannet` for the layout. Every room is a scan with one frame: several views of one room would
only repeat it. Room number 12 is `scene0012_00_00000`; numbers go on from `train` to `valid`.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import NamedTuple

from PIL import Image
from tqdm import tqdm

from aligned_vq.data.pairs.scannet import (
    FOLDERS,
    FRAME_CHARACTERS,
    SPLITS,
    list_path,
    read_scannet,
)
from aligned_vq.data.pairs.types import PairList
from aligned_vq.data.rooms.examples import RoomSet
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.images.modality import Modality

_JPEG_QUALITY = 95
_ROOMS_PER_TASK = 16


class RoomPart(NamedTuple):
    """The first rooms of a set."""

    rooms: RoomSet
    number: int


def write_rooms(folder: Path, train: RoomPart, valid: RoomPart) -> None:
    """Render rooms with all cores, and replace the folder with them at once.

    Colour is stored as JPEG, as ScanNet's is; depth and infrared without loss.

    Args:
        folder: new, or with files of this layout only.
        train: rooms of the split `train`.
        valid: rooms of the split `valid`.

    Raises:
        ConfigError: a part has no room or both share one, or the folder has other files in it.
        NotWritten: the disk is full, or the permission to write is missing.
    """
    parts = dict(zip(SPLITS, (train, valid), strict=True))
    _check(train, valid)
    folder.parent.mkdir(parents=True, exist_ok=True)
    lists = [list_path(folder, split).name for split in SPLITS]
    with new_folder(folder, (*SPLITS, *lists)) as new:
        new_numbers = count()
        for split, part in parts.items():
            top = new / split
            for name in ("rgb", "scene_class", *FOLDERS.values()):
                (top / name).mkdir(parents=True)
            stems = [f"scene{next(new_numbers):04d}_00_00000" for _ in range(part.number)]
            _write_part(top, part, stems)
            list_path(new, split).write_text("".join(f"{stem}\n" for stem in stems), "utf-8")


def open_rooms(folder: Path, split: str, modality: Modality = "depth") -> PairList:
    """What `write_rooms` wrote, read as ScanNet is; `infrared` are its thermal images.

    Raises:
        ConfigError: as `read_scannet`.
    """
    return read_scannet(folder, split, modality)


def _check(train: RoomPart, valid: RoomPart) -> None:
    if min(train.number, valid.number) < 1:
        raise ConfigError(
            f"expected rooms in both splits, got {train.number} of train and {valid.number} of "
            "valid; write at least 1 of each"
        )
    if (train.rooms.split, train.rooms.style) == (valid.rooms.split, valid.rooms.style):
        first, second = (
            range(part.rooms.first_index, part.rooms.first_index + part.number)
            for part in (train, valid)
        )
        if max(first.start, second.start) < min(first.stop, second.stop):
            raise ConfigError(
                f"expected different rooms in train and valid, got {first} and {second} of the "
                f"split {train.rooms.split!r}; take them from two splits, or shift first_index"
            )


def _write_part(top: Path, part: RoomPart, stems: list[str]) -> None:
    write = partial(_write_room, top, part.rooms)
    with ProcessPoolExecutor(os.cpu_count()) as workers:
        rooms = workers.map(write, range(part.number), stems, chunksize=_ROOMS_PER_TASK)
        # The results are None: this waits for the workers and shows their errors.
        for _ in tqdm(rooms, total=part.number, desc=f"write {top.name} rooms", unit="room"):
            pass


def _write_room(top: Path, rooms: RoomSet, index: int, stem: str) -> None:
    room = rooms[index]
    Image.fromarray(room.rgb).save(top / "rgb" / f"{stem}.jpg", quality=_JPEG_QUALITY)
    Image.fromarray(room.depth_mm).save(top / FOLDERS["depth"] / f"{stem}.png")
    Image.fromarray(room.infrared).save(top / FOLDERS["infrared"] / f"{stem}.png")
    label = top / "scene_class" / f"{stem[:-FRAME_CHARACTERS]}.txt"
    label.write_text(room.label, "utf-8")
