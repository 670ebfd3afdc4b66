"""What a sweep is told, what it does twice, and what a failing run costs the others."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from accelerate.state import AcceleratorState
from PIL import Image

from aligned_vq.errors import ConfigError, TrainingError
from aligned_vq.evaluation.sweep import Sweep, SweepOutcome
from aligned_vq.evaluation.sweep_config import (
    git_commit,
    merged,
    parse_sweep,
    read_sweep,
)
from aligned_vq.training.run import TrainingRun

SWEEPS = Path(__file__).parents[2] / "benchmarks" / "sweeps"
TWO = {
    "codec": {"codebook_sizes": [64, 64], "points": {"a": {"stages": [0]}, "b": {"stages": [1]}}}
}


def test_overrides_merge_into_the_base() -> None:
    base = {"codec": {"split": "ln1@1", "codebook_sizes": [4096]}, "seed": 1}
    over = {"codec": {"codebook_sizes": [64, 64], "split": None}, "align": {"steps": 3}}
    assert merged(base, over) == {
        "codec": {"codebook_sizes": [64, 64]},
        "seed": 1,
        "align": {"steps": 3},
    }
    assert base["codec"] == {"split": "ln1@1", "codebook_sizes": [4096]}


def test_a_run_is_its_base_with_overrides() -> None:
    sweep = parse_sweep(
        {
            "questions": 50,
            "base": {"codec": {"codebook_dim": 16}, "seed": 4},
            "runs": {"a": None, "b": {**TWO, "group": "g", "x": {"a": 1}, "points": ["a"]}},
        }
    )
    first, second = sweep.runs
    assert sweep.questions == 50
    assert first.config.codec.codebook_sizes == (4096,)
    assert second.config.codec.codebook_sizes == (64, 64)
    assert first.config.codec.codebook_dim == second.config.codec.codebook_dim == 16
    assert first.config.seed == second.config.seed == 4
    assert (second.points, second.x_value("a"), second.x_value("b")) == (("a",), 1, "b")


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"run": {}}, "run"),
        ({"base": {"sed": 1}, "runs": {"a": {}}}, "base.*sed"),
        ({"base": {"codec": {"spilt": "pre"}}, "runs": {"a": {}}}, "base.*codec.spilt"),
        ({"runs": {"a": {"align": {"step": 1}}}}, "runs.a.*align.step"),
        ({"runs": {"a": {"codec": {"points": {"p": {"stage": [0]}}}}}}, "runs.a.*points.*stage"),
        ({"runs": {"a": {"seed": "x"}}}, "runs.a.*seed"),
        ({"runs": {"a": {"codec": 3}}}, "runs.a.*codec"),
        ({"runs": {"a": {"points": ["low"]}}}, "runs.a.points"),
        ({"runs": {"a": {"x": {"low": 1}}}}, "runs.a.x"),
        ({"runs": {"a": {"x": [1]}}}, "runs.a.x"),
        ({"runs": {"a": {"group": "rate"}}}, "runs.a.group"),
        ({"runs": {"a": {"lora": {"rank": 2}}}}, "lora.rank"),
        ({"runs": {"../a": {}}}, r"\.\./a"),
        ({"runs": {}}, "runs"),
        ({"questions": 0, "runs": {"a": {}}}, "questions"),
        ({"runs": {"a": {}, "b": {"precision": "no"}}}, "precision"),
        ([], "sweep"),
    ],
)
def test_what_cannot_be_used_is_named(settings: Any, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_sweep(settings)


def test_a_file_that_is_not_yaml(tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_text("runs: [")
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        read_sweep(tmp_path / "bad.yaml")


@pytest.mark.parametrize("name", ["geometry", "cuts", "links"])
def test_the_sweeps_that_come_with_the_project(name: str) -> None:
    sweep = read_sweep(SWEEPS / f"{name}.yaml")
    assert all(run.group for run in sweep.runs)
    assert all(run.config.align.steps == run.config.task.steps == 0 for run in sweep.runs)


def test_a_file_outside_any_repository_has_no_commit(tmp_path: Path) -> None:
    (tmp_path / "file.py").touch()
    assert git_commit(tmp_path / "file.py") is None


@pytest.fixture(scope="module")
def settings(llava_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A sweep over the small model: two equal codecs, another link, and one that cannot be."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(12):
        noise = rng.integers(0, 256, (56, 56, 3), np.uint8)
        Image.fromarray(noise).save(folder / f"{number}.png")
    return {
        "questions": 8,
        "base": {
            "checkpoint": str(llava_directory),
            "codec": {"split": "ln1@1", "codebook_sizes": [32, 32], "codebook_dim": 8},
            "data": {"train": f"images:{folder}", "calibration_images": 12},
            "precision": "no",
        },
        "runs": {
            "broken": {"codec": {"split": "ln1@9"}},
            "plain": {"group": "stages", "x": {"fixed": 2, "fixed-1": 1}},
            "again": {"group": "size", "x": 32},
            "sent": {"codec": {"link": "statistics"}, "points": ["fixed"]},
        },
    }


@pytest.fixture(scope="module")
def swept(
    settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, SweepOutcome]:
    folder = tmp_path_factory.mktemp("sweep")
    outcome = Sweep(parse_sweep(settings), folder).run()
    # accelerate keeps a process's precision for ever; another module may want another.
    AcceleratorState._reset_state(reset_partial_state=True)
    return folder, outcome


def _record(folder: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / f"{name}.json").read_text())
    return found


def test_a_failing_run_does_not_stop_the_others(swept: tuple[Path, SweepOutcome]) -> None:
    folder, outcome = swept
    assert list(outcome.failed) == ["broken"]
    assert "ln1@9" in outcome.failed["broken"]
    assert (folder / "table.md").read_text() == outcome.table
    with pytest.raises(TrainingError, match="broken"):
        outcome.check()
    assert not (folder / "broken.json").exists()


def test_a_record_tells_what_it_is_of(swept: tuple[Path, SweepOutcome]) -> None:
    record = _record(swept[0], "plain")
    assert record["versions"].keys() >= {"aligned_vq", "torch", "transformers"}
    assert (record["seed"], record["questions"]) == (0, 8)
    assert [row["x"] for row in record["rows"]] == [2, 1]
    row = record["rows"][0]
    assert row["name"] == "plain fixed"
    assert row["mean_bytes"] > 0
    assert row["codebooks"][0].keys() >= {"perplexity", "dead_share"}
    assert [(curve["stage"], len(curve["shares"])) for curve in row["usage"]] == [(0, 32), (1, 32)]
    for curve in row["usage"]:
        assert curve["shares"] == sorted(curve["shares"], reverse=True)
        assert np.mean(curve["shares"]) == pytest.approx(1, abs=1e-3)
    assert row["answers"] - row["answers_difference"]["mean"] == pytest.approx(
        _record(swept[0], "unsplit")["answers"], abs=1e-4
    )


def test_an_equal_codec_is_not_examined_again(swept: tuple[Path, SweepOutcome]) -> None:
    plain, again = (_record(swept[0], name) for name in ("plain", "again"))
    assert plain["date"] == again["date"]
    assert [row["x"] for row in again["rows"]] == [32, 32]
    assert [row["name"] for row in again["rows"]] == ["again fixed", "again fixed-1"]
    assert len(_record(swept[0], "sent")["rows"]) == 1


def test_runs_that_are_done_are_skipped(
    swept: tuple[Path, SweepOutcome], settings: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, outcome = swept
    before = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    trained: list[Path] = []
    monkeypatch.setattr(TrainingRun, "train", lambda run: trained.append(run.out))
    runs = {name: own for name, own in settings["runs"].items() if name != "broken"}
    second = Sweep(parse_sweep({**settings, "runs": runs}), folder).run()
    assert (trained, dict(second.failed)) == ([], {})
    assert second.table.splitlines()[2:5] == outcome.table.splitlines()[2:5]
    # Places in the sweep have moved up by one, so the files were written; their figures stay.
    assert before.keys() == {*folder.glob("*.json")}
    third = Sweep(parse_sweep({**settings, "runs": runs}), folder)
    stamps = {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    third.run()
    assert stamps == {path: path.stat().st_mtime_ns for path in folder.glob("*.json")}
