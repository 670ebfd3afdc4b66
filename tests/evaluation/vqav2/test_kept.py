"""Answers that were kept: whose they are, and whose they are not."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from aligned_vq.cli import main
from aligned_vq.errors import ConfigError
from aligned_vq.evaluation.vqav2.answer_log import (
    AnswerLog,
    AnswerRecord,
    claim,
    read_answers,
)
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from tests.evaluation.vqav2.folder import arguments, evaluated

FEW = "--questions=2"
WEIGHTS = "model.safetensors"


def other_language_model(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    name = next(name for name in sorted(tensors) if "language_model" in name)
    save_file(tensors | {name: tensors[name] + torch.ones(())}, folder / WEIGHTS, {"format": "pt"})


def other_chat_template(folder: Path) -> None:
    path = folder / "chat_template.jinja"
    path.write_text(path.read_text() + " ")


def logs(out: Path) -> dict[str, bytes]:
    return {path.parent.name: path.read_bytes() for path in out.glob("*/answers-*.jsonl")}


@pytest.mark.parametrize("change", [other_language_model, other_chat_template])
def test_another_checkpoint_of_the_same_name_is_refused(
    change: Callable[[Path], None],
    world: Path,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bundles = f"--bundles={bundle_directory}"
    first, second = (tmp_path / run / "checkpoint" for run in "ab")
    for folder in (first, second):
        shutil.copytree(llava_directory, folder)
    change(second)
    out = tmp_path / "out"
    evaluated(world, out, first, bundles, FEW)
    before = logs(out)
    assert len(before) == 4
    capsys.readouterr()
    # The unsplit row is the first; without its folder, the next one says so.
    for row in ("unsplit", f"{bundle_directory.name}-adaptive"):
        assert main(arguments(world, out, second, bundles, FEW)) == 1
        words = capsys.readouterr().err
        assert f"{out / row}: expected the settings of the answers in it, files '" in words
        for digest in (LlavaCheckpoint(first).digest(), LlavaCheckpoint(second).digest()):
            assert f"files '{digest[:10]}" in words
        assert logs(out)[row] == before[row]
        shutil.rmtree(out / row)


def test_a_renamed_checkpoint_goes_on_and_is_read_once(
    world: Path,
    llava_directory: Path,
    bundle_directory: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    digests = []
    read = LlavaCheckpoint.digest

    def digest(self: LlavaCheckpoint) -> str:
        digests.append(read(self))
        return digests[-1]

    monkeypatch.setattr(LlavaCheckpoint, "digest", digest)
    out, bundles = tmp_path / "out", f"--bundles={bundle_directory}"
    figures = evaluated(world, out, llava_directory, bundles, FEW)
    before = logs(out)
    renamed = Path(shutil.copytree(llava_directory, tmp_path / "renamed"))
    assert evaluated(world, out, renamed, bundles, FEW) == figures
    assert logs(out) == before
    assert len(digests) == 2
    assert len(set(digests)) == 1


def test_other_ways_of_asking_are_named_with_both_values(
    world: Path, llava_directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evaluated(world, tmp_path, llava_directory, "--bundles", FEW)
    other = arguments(world, tmp_path, llava_directory, "--bundles", FEW, f"--suffix={'x' * 99}")
    capsys.readouterr()
    assert main([*other, "--max_tokens=5"]) == 1
    words = capsys.readouterr().err
    assert "expected the settings of the answers in it, suffix '\\nAnswer" in words
    assert ", max_tokens 4, got suffix 'xxxx" in words
    assert "..." in words
    assert "x" * 30 not in words
    assert ", max_tokens 5; use the same settings, or another --out" in words


def test_a_row_killed_before_it_was_claimed_is_one_without_answers(
    world: Path, llava_directory: Path, tmp_path: Path
) -> None:
    for left in ([], ["row.json.partial"]):
        shutil.rmtree(tmp_path / "unsplit", ignore_errors=True)
        (tmp_path / "unsplit").mkdir()
        for name in left:
            (tmp_path / "unsplit" / name).write_text('{"half": ')
        (row,) = evaluated(world, tmp_path, llava_directory, "--bundles", FEW)["rows"]
        assert row["questions"] == 2
        kept = json.loads((tmp_path / "unsplit" / "row.json").read_text())
        assert kept["checkpoint"] == llava_directory.name


def test_what_was_claimed_and_never_answered_is_anybodys(tmp_path: Path) -> None:
    folder = tmp_path / "row"
    claim(folder, {"cloud": "clodu:50051"}, answered=bool(read_answers(folder)))
    claim(folder, {"cloud": "cloud:50051"}, answered=bool(read_answers(folder)))
    with AnswerLog(folder, 0) as log:
        log.add([AnswerRecord(1, 1, "yes", 300)])
    claim(folder, {"cloud": "cloud:50051"}, answered=bool(read_answers(folder)))
    with pytest.raises(ConfigError, match="in it, cloud 'cloud:50051', got cloud 'clodu:50051'"):
        claim(folder, {"cloud": "clodu:50051"}, answered=bool(read_answers(folder)))
