"""Furniture made of boxes and cylinders, by name, with sizes drawn at random.

Every maker returns solids around the origin of the floor whose front faces -y.
"""

from __future__ import annotations

from aligned_vq.data.rooms.furniture import (
    fixtures,
    kitchen,
    machines,
    seats,
    sports,
    storage,
    tables,
    walls,
)
from aligned_vq.data.rooms.furniture.making import Maker

MAKERS: dict[str, Maker] = {
    **seats.MAKERS,
    **tables.MAKERS,
    **storage.MAKERS,
    **kitchen.MAKERS,
    **fixtures.MAKERS,
    **walls.MAKERS,
    **machines.MAKERS,
    **sports.MAKERS,
}
"""Makers by the name of what they make, which captions use."""
