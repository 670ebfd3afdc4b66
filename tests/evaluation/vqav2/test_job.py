"""The whole evaluation on a small model: rows, kills, processes, a cloud."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.cli import main
from aligned_vq.evaluation.vqav2.metric import normalise
from benchmarks.harness.processes import CloudProcess
from benchmarks.links.secured_links import secured_link
from tests import commands
from tests.evaluation.vqav2.conftest import QUESTIONS
from tests.evaluation.vqav2.folder import arguments, evaluated, results

SECONDS = 100
ROWS = ("unsplit", "{} adaptive", "{} fixed", "{} first")


@pytest.fixture(scope="module")
def whole(
    world: Path,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, Any]:
    """Folder and figures of an evaluation that nothing disturbed."""
    out = tmp_path_factory.mktemp("whole")
    return out, evaluated(world, out, llava_directory, f"--bundles={bundle_directory}")


def _folders(bundle: Path) -> list[str]:
    return [name.format(bundle.name).replace(" ", "-") for name in ROWS]


def test_a_row_for_the_unsplit_model_and_every_operating_point(
    whole: tuple[Path, Any], bundle_directory: Path
) -> None:
    _, figures = whole
    rows = figures["rows"]
    assert [row["name"] for row in rows] == [name.format(bundle_directory.name) for name in ROWS]
    assert all(row["questions"] == QUESTIONS and row["measured"] for row in rows)
    assert {row["split"] for row in rows} == {"reference_world"}
    unsplit, adaptive, fixed, first = rows
    assert unsplit["mean_bytes"] is None
    assert first["mean_bytes"] < adaptive["mean_bytes"] < fixed["mean_bytes"]
    assert unsplit["to_unsplit"] == {"mean": 0, "low": 0, "high": 0}
    for row in rows:
        interval, found = row["interval"], row["accuracies"]
        assert interval["low"] <= interval["mean"] <= interval["high"]
        assert interval["mean"] == pytest.approx(found["overall"], abs=0.01)
        assert set(found["answer_types"]) == {"yes/no", "number", "other"}


def test_result_files_are_the_official_ones(whole: tuple[Path, Any], world: Path) -> None:
    out, figures = whole
    asked = json.loads((world / "v2_OpenEnded_mscoco_val2014_questions.json").read_text())
    ids = [question["question_id"] for question in asked["questions"]]
    for row in figures["rows"]:
        path = Path(row["results"])
        assert path.name.startswith("v2_OpenEnded_mscoco_val2014_")
        found = json.loads(path.read_text())
        assert [set(entry) for entry in found] == [{"question_id", "answer"}] * QUESTIONS
        assert [entry["question_id"] for entry in found] == ids
        assert all(entry["answer"] == normalise(entry["answer"]) for entry in found)
    assert len(set(results(out).values())) > 1  # rows differ


def test_published_rows_are_marked(
    whole: tuple[Path, Any], world: Path, llava_directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, figures = whole
    assert {row["measured"] for row in figures["published"]} == {False}
    assert [row["accuracy"] for row in figures["published"]] == [78.5, 79.1, 79.98]
    assert main(arguments(world, out, llava_directory, "--bundles", "--kinds")) == 0
    measured, published = capsys.readouterr().out.split("published by others, not measured here")
    assert "unsplit" in measured
    assert "reference_world" in measured
    assert "LLaVA" not in measured
    assert "79.98" in published
    assert published.count("test-dev2015") == 2
    assert "not comparable" in published
    assert "how many" in published  # the table by question type


def test_a_killed_job_goes_on_to_the_same_files(
    whole: tuple[Path, Any],
    world: Path,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
) -> None:
    bundles = f"--bundles={bundle_directory}"
    options = arguments(world, tmp_path, llava_directory, bundles)
    # In the middle of a picture's questions of the second row.
    killed_at = QUESTIONS + 11
    killed = commands.run(
        [sys.executable, "-m", "tests.evaluation.vqav2.killed", str(killed_at), *options],
        timeout=SECONDS,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-2000:]
    logs = [tmp_path / name / "answers-000.jsonl" for name in _folders(bundle_directory)]
    before = [log.read_bytes() if log.exists() else b"" for log in logs]
    assert [text.count(b"\n") for text in before] == [QUESTIONS, 10, 0, 0]
    assert not before[1].endswith(b"\n")
    evaluated(world, tmp_path, llava_directory, bundles)
    assert results(tmp_path) == results(whole[0])
    after = [log.read_bytes() for log in logs]
    assert after[0] == before[0]  # nothing is asked again
    assert after[1].startswith(before[1][: before[1].rindex(b"\n") + 1])
    assert [text.count(b"\n") for text in after] == [QUESTIONS] * len(ROWS)


def test_two_processes_write_what_one_writes(
    whole: tuple[Path, Any], world: Path, llava_directory: Path, tmp_path: Path
) -> None:
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    options = arguments(world, tmp_path, llava_directory, "--bundles")
    done = commands.run(
        [sys.executable, *launcher, "-m", "aligned_vq.cli", *options],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("not measured here") == 1  # one of them speaks
    logs = sorted((tmp_path / "unsplit").glob("answers-*.jsonl"))
    counts = [log.read_bytes().count(b"\n") for log in logs]
    assert sum(counts) == QUESTIONS
    assert len(counts) == 2
    assert min(counts) > QUESTIONS / 4
    assert results(tmp_path)["unsplit"] == results(whole[0])["unsplit"]


def test_through_a_cloud_that_wants_a_token_the_answers_are_the_same(
    whole: tuple[Path, Any],
    world: Path,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    common = (world, tmp_path, llava_directory)
    evaluated(*common, "--bundles", "--questions=16")
    link = secured_link("token", tmp_path / "link")
    with CloudProcess(bundle_directory, llava_directory, *link.service) as cloud:
        over_wire = [f"--bundles={bundle_directory}", f"--target={cloud.target}", "--questions=16"]
        figures = evaluated(*common, *over_wire, *link.client_options)
    assert [row["name"] for row in figures["rows"]] == [
        f"{name.format(bundle_directory.name)}, cloud" for name in ROWS[1:]
    ]
    here = {entry["question_id"]: entry for row in whole[1]["rows"][1:2] for entry in answers(row)}
    for entry in answers(figures["rows"][0]):
        assert entry == here[entry["question_id"]]
    assert all(row["to_unsplit"] is not None for row in figures["rows"])  # of the job before
    assert figures["rows"][2]["mean_bytes"] < figures["rows"][1]["mean_bytes"]
    # All is answered, so that nobody is asked; of another address nothing was answered.
    assert evaluated(*common, *over_wire)["rows"] == figures["rows"]
    over_wire[1] = "--target=other.example:443"
    capsys.readouterr()
    assert main(arguments(world, tmp_path, llava_directory, *over_wire)) == 1
    words = capsys.readouterr().err
    assert f"cloud {cloud.target!r}, got cloud 'other.example:443'" in words


def answers(row: Any) -> Any:
    return json.loads(Path(row["results"]).read_text())
