import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.errors import ConfigError
from benchmarks.leakage.kind import LeakageSettings, measure, plot, table
from benchmarks.leakage.sheet import TILE_PX

TINY = LeakageSettings(
    points=("low",),
    cuts=("pre",),
    codebook_sizes=(16, 8),
    train_pictures=4,
    calibration_pictures=2,
    test_pictures=3,
    steps=2,
    width=8,
    blocks=1,
    samples=2,
)
CALIBRATED = ("pre calibrated 4 bits", "pre calibrated 7 bits")
RECOVERED = ("pre none", *CALIBRATED, "ln1@1 none", "ln1@1 low")


@pytest.fixture(scope="module")
def rows() -> list[dict[str, Any]]:
    return measure(TINY)


def test_every_row_is_there_with_figures_in_range(rows: list[dict[str, Any]]) -> None:
    by_name = {row["name"]: row for row in rows}
    jpegs = [f"JPEG beside {name}" for name in (*CALIBRATED, "ln1@1 low")]
    known = ["originals", "originals at 168 px", "mean picture"]
    assert set(by_name) == {*known, *RECOVERED, *jpegs}
    assert json.loads(json.dumps(rows)) == rows
    for row in rows:
        assert 0 <= row["answers"] <= 1
        assert row["questions"] >= TINY.test_pictures
        assert len(row["samples"]) == TINY.samples
    for name in ("mean picture", *RECOVERED, *jpegs):
        row = by_name[name]
        assert len(row["psnr_db"]) == len(row["ssim"]) == TINY.test_pictures
        assert all(5 < db < 60 for db in row["psnr_db"])
        assert all(-1 <= value <= 1 for value in row["ssim"])
    assert by_name["originals"]["to_originals"] == {"mean": 0, "low": 0, "high": 0}
    fewer, more = (np.mean(by_name[name]["bytes"]) for name in CALIBRATED)
    assert 577 * 4 / 8 * 0.5 < fewer < more < 577 * 7 / 8 + 20
    assert by_name["ln1@1 none"]["bytes"] == [577 * 192 * 2] * TINY.test_pictures


def test_decoders_recover_something_and_jpeg_keeps_the_bytes(rows: list[dict[str, Any]]) -> None:
    by_name = {row["name"]: row for row in rows}
    floor = np.mean(by_name["mean picture"]["psnr_db"])
    for name in RECOVERED:
        assert np.mean(by_name[name]["psnr_db"]) > floor + 1
    for jpeg in (row for row in rows if "beside" in row):
        pairs = zip(jpeg["bytes"], by_name[jpeg["beside"]]["bytes"], strict=True)
        assert all(own <= other for own, other in pairs)
        assert jpeg["files"] == sum(size > 0 for size in jpeg["bytes"])


def test_table_plot_and_sheet(rows: list[dict[str, Any]], tmp_path: Path) -> None:
    text = table(rows)
    for cut, codec in (name.split(maxsplit=1) for name in RECOVERED):
        assert f"| {cut} | {codec} |" in text
    assert "lower bound" in text
    plot(rows, tmp_path / "leakage")
    found = {file.name for file in tmp_path.iterdir()}
    assert found == {"leakage.png", "leakage-samples.png"}
    with Image.open(tmp_path / "leakage-samples.png") as sheet:
        assert sheet.height > TILE_PX * (2 + len(RECOVERED))


def test_settings_that_say_nothing_are_refused() -> None:
    with pytest.raises(ConfigError, match="1 or more"):
        LeakageSettings(steps=0)
    with pytest.raises(ConfigError, match="codebook_sizes"):
        LeakageSettings(codebook_sizes=())
    with pytest.raises(ConfigError, match="a point or a cut"):
        LeakageSettings(points=(), cuts=())
    settings = LeakageSettings(points=("best",), cuts=(), train_pictures=1, test_pictures=1)
    with pytest.raises(ConfigError, match="expected a quality"):
        measure(replace(settings, unquantized=False))
