"""The reference rooms: geometry that agrees with formulas, rooms that follow from their seed."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from aligned_vq.data.rooms.camera import Camera
from aligned_vq.data.rooms.furniture import MAKERS
from aligned_vq.data.rooms.kinds import read_kinds, room_kinds
from aligned_vq.data.rooms.layout import RoomLayout
from aligned_vq.data.rooms.materials import Material
from aligned_vq.data.rooms.render import WALLS, Furniture, Light, Room, RoomImages, render
from aligned_vq.data.rooms.scenes import (
    SPLITS,
    STYLES,
    Style,
    sample_camera,
    sample_room,
    scene_rng,
)
from aligned_vq.data.rooms.solids import Solid, box, corners, cylinder, placed
from aligned_vq.errors import ConfigError

SIDE_PX = 64
PLAIN = Material((0.5, 0.5, 0.5))
SURFACES = ("left", "right", "front", "back", "floor", "ceiling")


def room(*solids: Solid) -> Room:
    """An empty room of 4 x 6 x 3 m with solids as one piece of furniture."""
    palette = dict.fromkeys((*SURFACES, "wood"), PLAIN)
    furniture = (Furniture("thing", solids),) if solids else ()
    return Room("misc", (4.0, 6.0, 3.0), furniture, palette, Light((2, 3, 2.9), 0.5, 1.0))


def camera(yaw: float = 0.0, pitch: float = 0.0) -> Camera:
    return Camera((2.0, 1.0, 1.5), yaw, pitch, 0.0, math.radians(60), SIDE_PX, SIDE_PX)


def seen(*solids: Solid, yaw: float = 0.0) -> RoomImages:
    return render(room(*solids), camera(yaw), np.random.default_rng(0))


def test_the_depth_of_a_wall_is_its_distance_along_the_viewing_axis() -> None:
    depth = seen().depth_m
    middle = depth[SIDE_PX // 2, SIDE_PX // 2]
    assert middle == pytest.approx(5.0, abs=1e-4)
    # The whole far wall is at one depth, however oblique the rays.
    assert (np.abs(depth - 5.0) < 1e-4).sum() > 100
    assert depth.max() == pytest.approx(5.0, abs=1e-4)


def test_a_ray_along_a_wall_ends_in_front_of_the_camera() -> None:
    odd = Camera((2.0, 1.0, 1.5), 0.0, 0.0, 0.0, math.radians(60), 33, 33)
    depth = render(room(), odd, np.random.default_rng(0)).depth_m
    assert depth[16, 16] == pytest.approx(5.0, abs=1e-4)
    assert (depth > 0).all()


@pytest.mark.parametrize("yaw", [0.0, 0.4])
def test_the_front_of_a_box_hides_what_is_behind_it(yaw: float) -> None:
    rendering = seen(box((2, 3, 1.0), (1.0, 1.0, 1.0), "wood"), yaw=yaw)
    shown = rendering.owner == 0
    assert shown.any()
    if yaw == 0:
        assert rendering.depth_m[shown].min() == pytest.approx(1.5, abs=1e-4)
        # 1 m at 1.5 m through 60 degrees over 64 pixels.
        expected = SIDE_PX / 2 / math.tan(math.radians(30)) / 1.5
        assert shown[SIDE_PX // 2].sum() == pytest.approx(expected, abs=1.5)
    assert (rendering.owner[~shown] == WALLS).all()


def test_the_middle_of_a_cylinder_is_nearer_than_its_edges() -> None:
    rendering = seen(cylinder((2, 3, 0), 1.0, 2.0, "wood"))
    row = rendering.depth_m[SIDE_PX // 2]
    shown = np.flatnonzero(rendering.owner[SIDE_PX // 2] == 0)
    assert row[shown].min() == pytest.approx(1.5, abs=5e-3)
    assert row[shown[0]] > row[shown[len(shown) // 2]]
    assert row[shown[0]] < 2.0


def test_turning_furniture_turns_its_front() -> None:
    (turned,) = placed([box((0, -1, 0), (0.2, 0.2, 1), "wood")], 2.0, 3.0, math.pi / 2)
    assert turned.centre == pytest.approx((3.0, 3.0, 0.5))
    rendering = seen(turned)
    assert (rendering.owner == 0).any()


def test_what_stands_behind_the_camera_is_not_seen() -> None:
    assert (seen(box((2, 0.3, 1.0), (1.0, 0.4, 1.0), "wood")).owner == WALLS).all()


@pytest.mark.parametrize("name", sorted(MAKERS))
def test_furniture_stands_on_the_floor_around_its_origin(name: str) -> None:
    for seed in range(4):
        solids = MAKERS[name](np.random.default_rng(seed))
        places = corners(solids)
        assert places[..., 2].min() > -0.01
        assert np.isfinite(places).all()
        assert np.abs(places[..., :2]).max() < 3.0


def test_a_room_follows_from_its_seed_and_splits_share_none() -> None:
    images: dict[tuple[str, str], list[RoomImages]] = {}
    for split in SPLITS:
        for style in STYLES:
            for _ in range(2):
                rng = scene_rng(split, 3, style)
                made, layout = sample_room("kitchen", rng, style)
                rendering = render(made, sample_camera(layout, rng, 32, style), rng)
                images.setdefault((split, style), []).append(rendering)
    for first, again in images.values():
        assert np.array_equal(first.rgb, again.rgb)
        assert np.array_equal(first.depth_m, again.depth_m)
    assert len({first.rgb.tobytes() for first, _ in images.values()}) == len(images)


@pytest.mark.parametrize("label", sorted(room_kinds().all))
@pytest.mark.parametrize("style", sorted(STYLES))
def test_furniture_neither_overlaps_nor_leaves_the_room(label: str, style: Style) -> None:
    rng = scene_rng("train", 7, style)
    made, layout = sample_room(label, rng, style)
    assert layout.furniture
    for number, footprint in enumerate(layout.footprints):
        assert not any(footprint.overlaps(other) for other in layout.footprints[:number])
        assert 0 <= footprint.left < footprint.right <= made.size[0]
        assert 0 <= footprint.front < footprint.back <= made.size[1]
    rendering = render(made, sample_camera(layout, rng, 32, style), rng)
    assert np.isfinite(rendering.depth_m).all()
    assert (rendering.depth_m > 0).all()


def test_a_room_without_space_stays_empty() -> None:
    layout = RoomLayout((0.3, 0.3, 2.5), np.random.default_rng(0))
    layout.furnish(room_kinds().scannet["office"], 3)
    assert layout.furniture == []


def test_scannets_twenty_one_types_are_there() -> None:
    assert len(room_kinds().scannet) == 21
    assert len(room_kinds().all) > 50
    assert "bedroom/hotel" in room_kinds().scannet


def test_unknown_furniture_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "kinds.yaml"
    kind = "{size: [[1, 2], [1, 2], [2, 3]], pieces: [[throne, 1, 1]], extras: []}"
    path.write_text(f"sizes: {{}}\nscannet: {{hall: {kind}}}\nothers: {{}}\n")
    with pytest.raises(ConfigError, match="'throne'"):
        read_kinds(path)
