"""Kinds of rooms: their size and furniture, read from `kinds.yaml`."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from aligned_vq.data.rooms.furniture import MAKERS
from aligned_vq.errors import ConfigError
from aligned_vq.files.yaml_file import mapping, read_yaml

Range = tuple[float, float]
Place = Literal["wall", "centre", "end", "grid", "around", "beside"]
ANY = "*"
"""Stands for any piece of furniture."""
_FILE = Path(__file__).with_name("kinds.yaml")


class Piece(NamedTuple):
    """Furniture of one name: between `low` and `high` of it, as far as there is room."""

    name: str
    low: int
    high: int
    place: Place = "wall"
    probability: float = 1.0


@dataclass(frozen=True)
class RoomKind:
    """A kind of room; ranges are bounds of uniform draws in metres."""

    width_m: Range
    depth_m: Range
    height_m: Range
    pieces: tuple[Piece, ...]
    """What defines it, the most telling first."""
    extras: tuple[str, ...]
    """Clutter that is likely besides."""


@dataclass(frozen=True)
class RoomKinds:
    """Kinds of rooms by their labels."""

    scannet: dict[str, RoomKind]
    """The 21 scene types of ScanNet."""
    others: dict[str, RoomKind]

    @cached_property
    def all(self) -> dict[str, RoomKind]:
        """Both, ScanNet's first."""
        return {**self.scannet, **self.others}


@cache
def room_kinds() -> RoomKinds:
    """The kinds of the reference rooms, read when they are first needed."""
    return read_kinds()


def read_kinds(path: Path = _FILE) -> RoomKinds:
    """Kinds of rooms from a YAML file.

    Raises:
        ConfigError: the file cannot be read, or names unknown furniture, places or sizes.
    """
    return read_yaml(path, _parse)


def _parse(loaded: Any) -> RoomKinds:
    top = mapping(loaded, "kinds of rooms", ("sizes", "scannet", "others"))
    sizes = {str(name): tuple(bounds) for name, bounds in mapping(top["sizes"], "sizes").items()}
    groups = (mapping(top[name], name) for name in ("scannet", "others"))
    scannet, others = (
        {label: _kind(label, fields, sizes) for label, fields in group.items()} for group in groups
    )
    return RoomKinds(scannet, others)


def _kind(label: str, fields: Any, sizes: dict[str, Any]) -> RoomKind:
    known = mapping(fields, label, ("size", "pieces", "extras"))
    width, depth, height = (
        sizes[one] if isinstance(one, str) else tuple(one) for one in known["size"]
    )
    pieces = tuple(Piece(*piece) for piece in known["pieces"])
    for name in (*(piece.name for piece in pieces), *known["extras"]):
        if name not in MAKERS and name != ANY:
            raise ConfigError(f"{label}: expected furniture of a known name, got {name!r}")
    for piece in pieces:
        if piece.place not in get_args(Place):
            raise ConfigError(f"{label}: expected a place for {piece.name}, got {piece.place!r}")
    return RoomKind(width, depth, height, pieces, tuple(known["extras"]))
