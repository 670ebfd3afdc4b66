"""One YAML in, one JSON out: errors that name the field, statistics, records that draw again."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from aligned_vq.errors import ConfigError
from benchmarks.bench import main, read_parts
from benchmarks.experiment import KINDS, parse_experiment, read_experiment
from benchmarks.harness.tables import markdown, with_statistics
from tests.benchmarks import toy_kind

EXPERIMENTS = Path(__file__).parents[2] / "benchmarks" / "experiments"


@pytest.fixture(autouse=True)
def _toy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(KINDS, "toy", toy_kind.__name__)


def _written(folder: Path, **experiment: Any) -> Path:
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(experiment))
    return path


@pytest.mark.parametrize("path", sorted(EXPERIMENTS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_preset_can_be_read(path: Path) -> None:
    assert read_experiment(path).parts


def test_a_part_has_its_kinds_settings_and_the_experiments_seed() -> None:
    found = parse_experiment({"seed": 5, "parts": {"toy": None, "b": {"kind": "toy", "seed": 1}}})
    first, second = found.parts
    assert first.settings == toy_kind.ToySettings(seed=5)
    assert (second.name, second.kind, second.settings.seed) == ("b", "toy", 1)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"parts": {"toy": {"cuont": 3}}}, "parts.toy: .*cuont"),
        ({"parts": {"toy": {"count": "three"}}}, "parts.toy: .*count.*three"),
        ({"parts": {"toy": {"count": 0}}}, "parts.toy: .*count must be positive, got 0"),
        ({"parts": {"toy": [1]}}, "parts.toy must be a mapping"),
        ({"parts": {"other": {}}}, "parts.other.kind: expected a kind, one of .*toy.*'other'"),
        ({"parts": {"../up": {"kind": "toy"}}}, "a name is also that of files"),
        ({"parts": {}}, "at least one part"),
        ({"part": {"toy": {}}}, "unknown key part in an experiment: expected one of seed, parts"),
        ({"seed": "a", "parts": {"toy": {}}}, "seed: expected a whole number"),
        ([1], "an experiment must be a mapping"),
    ],
)
def test_an_error_names_the_field(told: Any, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_experiment(told)


def test_statistics_of_samples() -> None:
    row = with_statistics(
        {"name": "a", "ms": [4, 1, 3, 2], "one": [7.5], "flags": [True], "no": []}
    )
    assert row["statistics"] == {
        "ms": {"median": 2.5, "p95": pytest.approx(3.85), "count": 4},
        "one": {"median": 7.5, "p95": 7.5, "count": 1},
    }
    assert row["ms"] == [4, 1, 3, 2]


def test_a_table_aligns_its_numbers_to_the_right() -> None:
    assert markdown(("what", "bytes"), [("ours", "1,096"), ("no", "-")]) == (
        "| what | bytes |\n| --- | ---: |\n| ours | 1,096 |\n| no | - |\n"
    )


def test_a_record_is_written_and_drawn_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, seed=2, parts={"toy": {"count": 4}, "more": {"kind": "toy"}})
    out = tmp_path / "out"
    assert main([str(path), "--out", str(out), "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    parts = read_parts(out / "small.json")
    assert printed == {"experiment": "small", "parts": parts}
    record = parts["toy"]
    assert record["settings"] == {"count": 4, "names": ["one", "two"], "seed": 2}
    assert record["rows"][0]["statistics"]["ms"]["count"] == 4
    assert record["machine"]["cores"] >= 1
    assert record["versions"]["torch"]
    drawn = ["more.md", "more.png", "small.json", "toy.md", "toy.png"]
    assert sorted(file.name for file in out.iterdir()) == drawn
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    for name in drawn:
        if name != "small.json":
            (out / name).unlink()
    assert main([str(path), "--out", str(out), "--draw"]) == 0
    assert "| one | 7 | 3.5 |" in capsys.readouterr().out
    assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_some_parts_are_measured_and_the_others_kept(tmp_path: Path) -> None:
    path = _written(tmp_path, parts={"toy": {"count": 1}, "more": {"kind": "toy"}})
    main([str(path), "--out", str(tmp_path)])
    _written(tmp_path, parts={"toy": {"count": 2}, "more": {"kind": "toy", "count": 9}})
    main([str(path), "--out", str(tmp_path), "--parts", "toy"])
    counts = {name: part["settings"]["count"] for name, part in _parts(tmp_path).items()}
    assert counts == {"toy": 2, "more": 3}


def test_what_was_measured_with_other_settings_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = _written(tmp_path, parts={"toy": {"count": 1}, "more": {"kind": "toy"}})
    main([str(path), "--out", str(tmp_path)])
    _written(tmp_path, parts={"toy": {"count": 2}, "later": {"kind": "toy"}})
    assert main([str(path), "--out", str(tmp_path), "--draw"]) == 0
    assert capsys.readouterr().err == "toy was measured with count 1 instead of 2\n"
    main([str(path), "--out", str(tmp_path), "--parts", "later"])
    assert set(_parts(tmp_path)) == {"toy", "later"}


def test_a_commit_that_changed_meanwhile_is_not_named_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = _written(tmp_path, parts={"toy": {}})
    monkeypatch.setattr("benchmarks.bench.git_commit", lambda: "another")
    main([str(path), "--out", str(tmp_path)])
    assert _parts(tmp_path)["toy"]["commit"].endswith(", changed while it measured")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--parts", "none"], "--parts: expected some of toy, got 'none'"),
        (["--draw"], "nothing was measured of toy"),
    ],
)
def test_what_cannot_be_done_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], words: str
) -> None:
    path = _written(tmp_path, parts={"toy": {}})
    assert main([str(path), "--out", str(tmp_path), *arguments]) == 2
    assert words in capsys.readouterr().err


def test_a_file_that_is_no_record_is_refused(tmp_path: Path) -> None:
    (tmp_path / "small.json").write_text('["parts"]')
    with pytest.raises(ConfigError, match="expected the record of an experiment"):
        read_parts(tmp_path / "small.json")


def _parts(folder: Path) -> dict[str, Any]:
    return read_parts(folder / "small.json")
