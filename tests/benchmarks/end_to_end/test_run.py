"""A whole measurement on 127.0.0.1 with the reference model, as small as it can be."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.end_to_end import EndToEndSettings, measure, table
from benchmarks.end_to_end.settings import CLOUD_ONLY, EDGE_ONLY, SPLIT

SCENE = str(Path(__file__).parents[3] / "examples" / "scene.png")
CLOUD = {"rebuild_ms", "suffix_ms", "projector_ms", "wait_ms", "prefill_ms", "decode_ms"}
LINK = {"uplink_ms", "downlink_ms"}
EXPECTED = {
    SPLIT: {"preprocess_ms", "prefix_ms", "quantize_ms", "pack_ms", "unpack_ms"} | LINK | CLOUD,
    CLOUD_ONLY: {"jpeg_ms"} | LINK | CLOUD,
    EDGE_ONLY: {"preprocess_ms", "prefix_ms"} | CLOUD - {"rebuild_ms"},
}


@pytest.mark.timeout(300)
def test_every_way_gives_every_stage() -> None:
    settings = EndToEndSettings(
        pictures=(SCENE,),
        question="How many objects are there?",
        max_tokens=4,
        profiles=(),
        sweep_kbit=(5000,),
        rounds=2,
        namespaces=False,
    )
    rows = {row["way"]: row for row in measure(settings)}
    assert set(rows) == {SPLIT, CLOUD_ONLY, EDGE_ONLY}
    for way, row in rows.items():
        for stage in EXPECTED[way]:
            assert len(row[stage]) == 2
            assert all(own > 0 for own in row[stage]), (way, stage)
        for first, total in zip(row["first_token_ms"], row["total_ms"], strict=True):
            assert 0 < first <= total
        assert row["tokens"] == rows[SPLIT]["tokens"]
    assert max(rows[SPLIT]["sent_bytes"]) < 1200
    assert min(rows[CLOUD_ONLY]["sent_bytes"]) > rows[CLOUD_ONLY]["jpeg_bytes"]
    assert rows[EDGE_ONLY]["sent_bytes"] == [0, 0]
    # What is sent takes its time at the link's rate, and both delays: no machine is faster.
    sending_ms = 8 * rows[CLOUD_ONLY]["jpeg_bytes"] / 5000
    assert min(rows[CLOUD_ONLY]["first_token_ms"]) > sending_ms + 20
    assert rows[SPLIT]["shaped_by"].startswith("user space: bandwidth")
    assert "5 Mbit/s" in table(list(rows.values()))
