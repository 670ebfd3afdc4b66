"""Rows become stages, a table, sentences and a figure."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from benchmarks.end_to_end import EndToEndSettings, plot, table
from benchmarks.end_to_end.camera_images import camera_image
from benchmarks.end_to_end.report import findings, pairs, speed_up, swept
from benchmarks.end_to_end.settings import CLOUD_ONLY, EDGE_ONLY, SPLIT, rounds_of
from benchmarks.end_to_end.stages import STAGES, accounted
from benchmarks.links.profiles import profiles, sweep

SCENE = str(Path(__file__).parents[3] / "examples" / "scene.png")


def row(way: str, link: Any, first: list[float], **more: Any) -> dict[str, Any]:
    """A row as `measure` gives it."""
    return {
        "model": "reference",
        "layers": None,
        "device": "cpu",
        "link": link.name if link else "none",
        **({"up_kbit": link.up_kbit, "source": link.source} if link else {}),
        "picture": "photo.jpg",
        "megapixels": 4.5,
        "jpeg_bytes": 900_000,
        "jpeg_bytes_a_pixel": 0.2,
        "way": way,
        "first_token_ms": first,
        "total_ms": [own + 100 for own in first],
        "shaped_by": "user space" if link else "none",
        "prefill_ms": [10.0] * len(first),
        "tokens": [16] * len(first),
        **more,
    }


def rows(*speed_ups: float) -> list[dict[str, Any]]:
    """A sweep over 1, 10, 100 Mbit/s, one profile, and the edge alone."""
    found = []
    for link, ratio in zip(sweep((1000, 10_000, 100_000), 10), speed_ups, strict=True):
        found.append(row(SPLIT, link, [200.0, 190.0, 210.0], uplink_ms=[20.0] * 3))
        found.append(row(CLOUD_ONLY, link, [200.0 * ratio], uplink_ms=[200.0 * ratio - 100]))
    (lte,) = profiles(["lte"])
    found += [row(SPLIT, lte, [250.0]), row(CLOUD_ONLY, lte, [1000.0])]
    return [*found, row(EDGE_ONLY, None, [150.0])]


def test_stages_add_up_to_the_time_they_explain() -> None:
    stages = accounted(
        {"load": 1.0, "preprocess": 10.0, "prefix": 20.0, "quantize": 3.0, "pack": 2.0},
        {"receive": 50.0, "unpack": 2.0, "suffix": 30.0, "prefill": 40.0, "decode": 90.0},
        first_token_ms=200.0,
        total_ms=300.0,
        round_trip_ms=30.0,
    )
    assert sum(stages.values()) == pytest.approx(300.0)
    assert stages["downlink"] == 15.0
    assert stages["uplink"] == pytest.approx(200 - 36 - 72 - 15)
    assert stages["decode"] == 100.0
    assert "receive" not in stages
    assert list(stages) == [stage for stage in STAGES if stage in stages]


def test_without_a_link_nothing_is_the_links() -> None:
    stages = accounted({"prefix": 20.0}, {"prefill": 40.0}, 61.0, 100.0, 0.0)
    assert set(stages) == {"prefix", "prefill", "decode"}


def test_speed_ups_compare_medians_of_one_link_and_picture() -> None:
    found = rows(38.0, 4.0, 0.8)
    assert len(pairs(found)) == 4
    assert [speed_up(*pair) for pair in pairs(found)] == pytest.approx([38, 4, 0.8, 4])
    places, ratios = zip(*swept(found)["photo.jpg"], strict=True)
    assert places == (1000, 10_000, 100_000)
    assert ratios == pytest.approx((38, 4, 0.8))


def test_the_crossing_and_the_targets_are_named() -> None:
    told = "\n".join(findings(rows(38.0, 4.0, 0.8)))
    assert "faster than JPEG 90 up to 72.7 Mbit/s, where they cross" in told
    assert "up to 1 Mbit/s: at least 38.00 times as fast (target 5: met)" in told
    assert "up to 20 Mbit/s: at least 4.00 times as fast (target 1: met)" in told
    assert "0.200 bytes a pixel" in told
    assert "the bundled reference model on both sides; the edge on a CPU, the clouds on " in told
    assert "photo.jpg: 150 ms on the edge alone" in told
    assert "split, it is no faster on any link" in told
    assert "shaped by user space" in told
    slow = [*rows(38.0, 4.0, 0.8)[:-1], row(EDGE_ONLY, None, [210.0])]
    assert "split, it is faster than that on 1 Mbit/s, 10 Mbit/s, 100 Mbit/s" in "\n".join(
        findings(slow)
    )
    assert "target 5: missed" in "\n".join(findings(rows(4.9, 2.0, 0.8)))
    assert "on every link measured, up to 100 Mbit/s" in "\n".join(findings(rows(9, 4, 2)))
    assert "already on the thinnest link" in "\n".join(findings(rows(0.9, 4, 2)))


def test_table_and_figure_show_every_link(tmp_path: Path) -> None:
    found = rows(38.0, 4.0, 0.8)
    text = table(found)
    for name in ("1 Mbit/s", "100 Mbit/s", "lte", "edge only", "| 38.00 |", "3 and 1"):
        assert name in text
    assert plot(found, tmp_path / "speed_up").stat().st_size > 10_000


def test_only_the_edge_has_a_table_and_a_figure_too(tmp_path: Path) -> None:
    found = [row(EDGE_ONLY, None, [150.0])]
    assert "edge only" in table(found)
    assert "split" not in table(found)
    path = plot(found, tmp_path / "alone")
    assert path == tmp_path / "alone.png"
    assert path.is_file()


def test_rounds_keep_within_the_time_a_link_may_take() -> None:
    settings = EndToEndSettings(rounds=10, seconds_a_link=40)
    counted = [rounds_of(link, 900_000, settings) for link in sweep((50, 1000, 10**5), 10)]
    assert counted == [1, 5, 10]


def test_a_picture_that_is_not_there_says_how_to_get_one() -> None:
    with pytest.raises(ConfigError, match="give a file, or `apt-get install"):
        camera_image("nowhere.jpg")
    found = camera_image(SCENE)
    assert found.bytes_a_pixel == found.jpeg_bytes / (found.megapixels * 1e6)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"ways": ("split", "pigeon")}, "expected some of split"),
        ({"rounds": 0}, "of 1 or more"),
        ({"profiles": (), "sweep_kbit": ()}, "name at least one link"),
    ],
)
def test_impossible_settings_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        EndToEndSettings(**change)
