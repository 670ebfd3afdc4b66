"""The rows of the exam without colours: which camera goes through which prefix."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.graph.modality_bundle import write_modality
from benchmarks.accuracy import modality
from tests.modalities import changed_prefix


def figures(monkeypatch: pytest.MonkeyPatch, out: Path, *options: str) -> dict[str, Any]:
    arguments = [*options, "--questions", "30", "--split", "validation", "--out", str(out)]
    monkeypatch.setattr(sys, "argv", ["modality", *arguments])
    assert modality.main() == 0
    rows: dict[str, Any] = json.loads(out.read_text())["rows"]
    return rows


def test_a_row_for_each_camera_and_prefix(
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ("--checkpoint", str(llava_directory))
    bundle, out = tmp_path / "bundle", tmp_path / "rows.json"
    prefix = changed_prefix(bundle_directory)
    write_modality(bundle_directory, prefix, "depth", modality.RANGES["depth"], bundle)
    rows = figures(monkeypatch, out, *model, "--bundle", str(bundle))
    assert list(rows) == ["rgb through rgb", "depth through rgb", "depth through depth"]
    assert len({json.dumps(row) for row in rows.values()}) == 3
    printed = capsys.readouterr().out
    for name, row in rows.items():
        assert row["questions"] == 30
        assert "colour" not in row["by_kind"]
        assert 0 < row["mean_bytes"] <= row["max_bytes"]
        assert f"{name:28} {row['accuracy']:5.1f} %" in printed
    # Without the modality: the first two rows, the same.
    plain = figures(monkeypatch, out, *model, "--bundle", str(bundle_directory))
    assert plain == {name: rows[name] for name in ("rgb through rgb", "depth through rgb")}
    # At another operating point.
    quality = ("--bundle", str(bundle_directory), "--quality", "first", "--modality", "infrared")
    first = figures(monkeypatch, out, *model, *quality)
    assert list(first) == ["rgb through rgb", "infrared through rgb"]
    assert first["rgb through rgb"]["mean_bytes"] < plain["rgb through rgb"]["mean_bytes"]
