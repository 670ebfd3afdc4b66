"""Bytes of a question as a proxy counts them: the promises about them, on two photographs."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.harness.tables import Row, with_statistics
from benchmarks.kinds.socket_bytes import (
    FOLLOW_UP,
    QUESTION,
    SocketBytesSettings,
    measure,
    plot,
    table,
)
from benchmarks.kinds.transmitted_forms import BASELINE

OURS = "AlignedVQ, 866 B"


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    settings = SocketBytesSettings(links=("tls",), photographs=("flower",))
    return [with_statistics(row) for row in measure(settings)]


def _only(rows: list[Row], name: str) -> Row:
    (found,) = (row for row in rows if row["name"] == name)
    return found


def test_a_question_with_a_payload_of_866_bytes(rows: list[Row]) -> None:
    own = _only(rows, OURS)
    assert len(QUESTION) == 40
    assert own["body_bytes"] == [866]
    assert max(own["warm_up_bytes"]) <= 1_100
    assert 40 < max(own["around_bytes"]) <= 200
    assert own["around_bytes"] == [own["warm_up_bytes"][0] - 866 - 40]
    assert own["first_up_bytes"][0] > own["warm_up_bytes"][0] + 500  # the handshake is in


def test_a_follow_up_question(rows: list[Row]) -> None:
    assert 56 < max(_only(rows, FOLLOW_UP)["warm_up_bytes"]) <= 250


def test_operating_points_send_their_payloads_and_as_little_around(rows: list[Row]) -> None:
    points = [row for row in rows if row["name"].startswith("AlignedVQ, `")]
    assert {row["name"].split("`")[1] for row in points} == {"low", "medium", "high", "fixed"}
    assert all(0 < max(row["body_bytes"]) <= 866 for row in points)
    assert all(max(row["around_bytes"]) <= 200 for row in points)


def test_files_and_features_cost_their_size_and_more(rows: list[Row]) -> None:
    jpeg, webp = _only(rows, BASELINE), _only(rows, "WEBP-90, 336 px")
    raw, int8 = _only(rows, "raw fp16"), _only(rows, "int8 per token")
    assert jpeg["warm_up_bytes"][0] > jpeg["body_bytes"][0] > webp["body_bytes"][0]
    assert raw["body_bytes"][0] == 577 * 192 * 2
    assert int8["body_bytes"][0] == 577 * (192 + 2)
    assert _only(rows, OURS)["baseline_times"][0] >= 20
    json = _only(rows, f"{BASELINE}, OpenAI JSON")
    assert json["warm_up_bytes"][0] > json["body_bytes"][0] > jpeg["body_bytes"][0] * 4 / 3


def test_tables_and_plots(rows: list[Row], tmp_path: Path) -> None:
    text = table(rows)
    assert len(text.splitlines()) == len(rows) + 2
    assert f"| {OURS} | tls | 866 |" in text
    plot(rows, tmp_path / "bytes")
    assert (tmp_path / "bytes.png").stat().st_size > 1000
