"""Costs of edge and cloud: settings that are refused, tables and plots. `make bench` measures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from aligned_vq.errors import ConfigError
from benchmarks.experiment import kind_of, parse_experiment
from benchmarks.harness.tables import Row, with_statistics
from benchmarks.speed.cloud_share import share, whole_model_ms

EDGE: list[Row] = [
    {
        "cut": cut,
        "backend": backend,
        "threads": 2,
        "flops": flops,
        "weights_bytes": 53_000_000,
        "peak_mb": 213.4,
        "products_ms": [100.0, 120.0, 110.0],
        "prefix_ms": [120.0, 150.0, 132.0],
        "whole_ms": [140.0, 170.0, 152.0],
        "ratio": [1.2, 1.25, 1.2],
    }
    for cut, flops in (("pre", 690_000_000), ("ln1@1", 16_570_000_000))
    for backend in ("torch", "onnx")
]
CLOUD: list[Row] = [
    *(
        {
            "what": "load",
            "mode": mode,
            "clients": clients,
            "questions_per_second": 30.04,
            "latency_ms": [10.0, 20.0, 30.0],
            "answers_equal": mode == "batched",
        }
        for clients in (1, 8)
        for mode in ("one at a time", "batched")
    ),
    {
        "what": "share",
        "name": "short answer, new picture",
        "layers": 0,
        "questions": 4,
        "stage_ms": {"unpack": 1.0, "in all": 50.0},
        "language_model_ms": 40.0,
        "not_language_model": 0.482,
    },
]
LINES = {
    "edge_cost": "| ln1@1 | onnx | 16.57 | 53.0 | 213 | 132.0 | 148.2 | 152.0 | 110.0 | 1.20 |",
    "cloud_cost": "| one at a time | 8 | 30.0 | 20 | 29 | NOT all |",
}


@pytest.mark.parametrize(("kind", "rows"), [("edge_cost", EDGE), ("cloud_cost", CLOUD)])
def test_tables_and_plots(kind: str, rows: list[Row], tmp_path: Path) -> None:
    module = kind_of(kind)
    found = [with_statistics(row) for row in rows]
    assert LINES[kind] in module.table(found)
    module.plot(found, tmp_path / kind)
    assert (tmp_path / f"{kind}.png").stat().st_size > 1000


@pytest.mark.parametrize("what", ["load", "share"])
def test_load_and_shares_can_be_measured_alone(what: str, tmp_path: Path) -> None:
    found = [with_statistics(row) for row in CLOUD if row["what"] == what]
    kind_of("cloud_cost").plot(found, tmp_path / what)
    assert [path.name for path in tmp_path.iterdir()] == [f"{what}.png"]
    assert (tmp_path / f"{what}.png").stat().st_size > 1000


def test_shares_are_a_table_of_their_own() -> None:
    text = kind_of("cloud_cost").table([with_statistics(row) for row in CLOUD])
    assert "| short answer, new picture | 1.0 | 50.0 | 40.0 | 48.2 |" in text


@pytest.mark.parametrize(
    ("part", "words"),
    [
        ({"edge_cost": {"cuts": ["ln3@1"]}}, "parts.edge_cost: .*ln3@1"),
        ({"edge_cost": {"cuts": ["ln1@23"]}}, "parts.edge_cost: .*tower has, got 'ln1@23'"),
        ({"edge_cost": {"backends": ["tpu"]}}, "parts.edge_cost: .*backends"),
        ({"edge_cost": {"rounds": 0}}, "parts.edge_cost: .*a round"),
        ({"cloud_cost": {"clients": [0]}}, "parts.cloud_cost: .*a client"),
        ({"cloud_cost": {"clients": [], "share_questions": 0}}, "parts.cloud_cost: .*got neither"),
        ({"cloud_cost": {"share_layers": -1}}, "parts.cloud_cost: .*0 or more, got 50 and -1"),
        ({"cloud_cost": {"question_kind": "long"}}, "parts.cloud_cost: .*question_kind"),
        ({"bytes": {"links": ["dtls"]}}, "parts.bytes: .*links"),
        ({"bytes": {"photographs": []}}, "parts.bytes: .*got neither"),
        ({"bytes": {"question": " "}}, "parts.bytes: .*a question"),
    ],
)
def test_settings_that_cannot_be_measured(part: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_experiment({"parts": part})


def test_a_whole_language_model_is_told_from_two_short_ones() -> None:
    few = {"prefill": 2 * 10.0 + 7.0, "decode": 2 * 5.0 + 3.0, "suffix": 40.0, "in all": 90.0}
    twice = {"prefill": 4 * 10.0 + 7.0, "decode": 4 * 5.0 + 3.0, "suffix": 41.0}
    whole_ms = whole_model_ms(few, twice, layers=2)
    assert whole_ms == pytest.approx(32 * 15.0 + 10.0)
    assert share(few, whole_ms) == pytest.approx(50 / (50 + whole_ms))
    with pytest.raises(ConfigError, match="expected 4 layers to take longer than 2"):
        whole_model_ms(few, few, layers=2)
