"""Figures: every one is written, and the same figures give the same file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.locations import (
    LOCATIONS,
    NORMAL_CV,
    location_statistics,
    locations_table,
    plot_locations,
    summarise,
)
from aligned_vq.evaluation.plots import plot_rate_accuracy, plot_sweep
from aligned_vq.evaluation.usage import usage_curves
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.types import Encoded, QuantizerConfig, StageIndices
from tests.conftest import IMAGE_SIDE


def _row(name: str, answers: float, mean_bytes: float, **settings: Any) -> dict[str, Any]:
    low, mean, high = (answers - 0.9 + step for step in (-0.03, 0.0, 0.04))
    return {
        "name": name,
        "settings": settings,
        "answers": answers,
        "answers_difference": {"mean": mean, "low": low, "high": high},
        "mean_bytes": mean_bytes,
    }


def _write_run(folder: Path, number: int, group: str, rows: list[tuple[Any, str]]) -> None:
    shares = np.linspace(2, 0, 16).tolist()
    made = [
        {
            **_row(f"{group} {x}", 0.5 + 0.02 * place, 400.0 + 100 * number, link=link),
            "x": x,
            "point": "fixed",
            "usage": [{"stage": 0, "group": 0, "size": 16, "shares": shares}],
        }
        for place, (x, link) in enumerate(rows)
    ]
    record = {"group": group, "number": number, "questions": 9, "rows": made}
    (folder / f"run{number}.json").write_text(json.dumps(record))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sweep's folder, with files that are none of its runs."""
    _write_run(tmp_path, 0, "size", [(64, "learned"), (4096, "learned")])
    _write_run(tmp_path, 1, "cuts", [("ln2@0", "learned"), ("pre", "learned")])
    links = [("ln1@0", "learned"), ("ln1@0", "dropped"), ("pre", "identity")]
    _write_run(tmp_path, 2, "links", links)
    _write_run(tmp_path, 3, "", [("alone", "learned")])
    (tmp_path / "unsplit.json").write_text('{"questions": 9}')
    return tmp_path


def _check(paths: list[Path]) -> None:
    assert paths
    for path in paths:
        colours = Image.open(path).convert("RGB").getcolors(1 << 20)
        assert colours is not None
        assert len(colours) > 10, path


def test_a_sweep_is_drawn_and_drawn_alike(folder: Path) -> None:
    paths = plot_sweep(folder)
    names = [path.name for path in paths]
    assert names == ["rate.png", "size.png", "cuts.png", "links.png", "usage.png"]
    assert {path.name for path in folder.iterdir() if path.suffix != ".json"} == set(names)
    _check(paths)
    first = {path: path.read_bytes() for path in paths}
    assert plot_sweep(folder) == paths
    assert first == {path: path.read_bytes() for path in first}


def test_a_folder_without_runs_gives_nothing(tmp_path: Path) -> None:
    assert plot_sweep(tmp_path) == []


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(ConfigError, match=r"run\.json"):
        plot_sweep(tmp_path)


def test_ways_of_sending_are_drawn_in_one_figure(tmp_path: Path) -> None:
    rows = [
        _row("unsplit", 0.9, 338_688.0),
        _row("JPEG-90 336px", 0.9, 20_000.0, format="JPEG", quality=90, side=336),
        _row("JPEG-20 336px", 0.8, 6_000.0, format="JPEG", quality=20, side=336),
        _row("raw fp16 ln1@1", 0.9, 221_568.0, cut="ln1@1", coding="raw fp16"),
        _row("codec low", 0.7, 340.0, cut="ln1@1", point="low"),
        _row("codec high", 0.8, 560.0, cut="ln1@1", point="high"),
    ]
    path = plot_rate_accuracy(rows, tmp_path / "rate.v1")
    assert path == tmp_path / "rate.v1.png"
    _check([path])
    first = path.read_bytes()
    assert plot_rate_accuracy(rows, tmp_path / "rate.v1") == path
    assert path.read_bytes() == first
    assert plot_rate_accuracy(rows[:1], tmp_path / "none") is None


def test_usage_is_sorted_and_thinned() -> None:
    rng = np.random.default_rng(1)
    indices = (rng.random((3000, 2)) ** 2 * 1024).astype(np.int32)
    config = QuantizerConfig(32, 8, (1024, 16), 2)
    curves = usage_curves([Encoded(3000, (StageIndices(indices),))], config)
    assert [(curve["stage"], curve["group"]) for curve in curves] == [(0, 0), (0, 1)]
    for curve in curves:
        assert len(curve["shares"]) == 256
        assert curve["shares"] == sorted(curve["shares"], reverse=True)
        assert np.mean(curve["shares"]) == pytest.approx(1, abs=1e-3)


def test_statistics_of_known_values() -> None:
    torch.manual_seed(0)
    normal = summarise(0, "ln1", torch.randn(200_000))
    assert normal.variation == pytest.approx(NORMAL_CV, abs=0.01)
    assert sum(normal.shares) + normal.beyond == pytest.approx(1, abs=1e-6)
    even = summarise(0, "ln1", torch.tensor([2.0, -2.0, 2.0]))
    assert (even.mean, even.variation, even.largest) == (2.0, 0.0, 2.0)
    with pytest.raises(ConfigError, match="zeros"):
        summarise(3, "mlp", torch.zeros(5))


def test_locations_of_every_block(llava_directory: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    checkpoint = LlavaCheckpoint(llava_directory)
    pixels = [torch.randn(2, 3, IMAGE_SIDE, IMAGE_SIDE) for _ in range(2)]
    rows = list(location_statistics(checkpoint, pixels))
    blocks = range(checkpoint.tower.last_block)
    assert [(row.block, row.location) for row in rows] == [
        (b, n) for b in blocks for n in LOCATIONS
    ]
    out, into = (
        [row for row in rows if row.location == name] for name in ("residual_out", "residual_in")
    )
    assert [row.mean for row in out[:-1]] == [row.mean for row in into[1:]]
    assert json.dumps([row.to_dict() for row in rows])
    assert len(locations_table(rows).splitlines()) == 1 + len(LOCATIONS)
    _check([plot_locations([row for row in rows if row.block < 2], tmp_path / "locations")])
