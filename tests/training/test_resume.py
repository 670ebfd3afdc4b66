"""A run that was stopped somehow goes on as if nothing had happened, or says what is wrong."""

from __future__ import annotations

import json
import os
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from aligned_vq.errors import ConfigError, TrainingError
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.stage import Learners
from aligned_vq.training.state import load_state, save_state, trim_log
from tests.disk import files_up_to
from tests.training.tiny import (
    after_steps,
    differing,
    losses,
    saved_place,
    saved_tensors,
    tiny_config,
)

SETTINGS: dict[str, Any] = {
    "align.steps": 4,
    "task.steps": 4,
    "lora.rank": 2,
    "codebooks.revive_every": 2,
    "save_every": 2,
}


@pytest.fixture
def config(llava_directory: Path, pictures: Path) -> TrainConfig:
    return tiny_config(llava_directory, pictures, SETTINGS)


class PowerCut(Exception):
    pass


def cut(learners: Learners) -> None:
    raise PowerCut


def interrupt(learners: Learners) -> None:
    os.kill(os.getpid(), signal.SIGINT)


@pytest.mark.parametrize("update", ["gradient", "ema"])
def test_a_stopped_run_goes_on_to_the_same_bits(
    update: str,
    llava_directory: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    changes = SETTINGS | {"codebooks.update": update}
    config = tiny_config(llava_directory, pictures, changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    TrainingRun(config, whole).train()

    with monkeypatch.context() as patch:
        after_steps(patch, interrupt, stage="align", step=0)
        with pytest.raises(KeyboardInterrupt):
            TrainingRun(config, parts).train()
    assert saved_place(parts) == ("align", 1)
    with monkeypatch.context() as patch:
        after_steps(patch, cut, stage="align", step=3)
        with pytest.raises(PowerCut):
            TrainingRun(config, parts).train()
    assert saved_place(parts) == ("align", 2)
    with monkeypatch.context() as patch:
        after_steps(patch, cut, stage="task", step=3)
        with pytest.raises(PowerCut):
            TrainingRun(config, parts).train()
    assert saved_place(parts) == ("task", 2)
    with (parts / "losses.jsonl").open("a") as file:
        file.write('{"stage": "task", "st')  # cut short by the same power cut
    TrainingRun(config, parts).train()

    assert losses(parts) == losses(whole)
    assert differing(saved_tensors(parts), saved_tensors(whole)) == []
    TrainingRun(config, parts).train()  # already done: nothing more happens
    assert losses(parts) == losses(whole)


def test_a_full_disk_keeps_the_checkpoint_before(config: TrainConfig, tmp_path: Path) -> None:
    run = TrainingRun(config, tmp_path)
    save = run._save

    def on_a_full_disk(stage: str, step: int, optimiser: Any) -> None:
        with files_up_to(4096 if step == 4 else resource.RLIM_INFINITY):
            save(stage, step, optimiser)

    run._save = on_a_full_disk  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"expected to write .*state, got: File too large"):
        run.train()
    assert saved_place(tmp_path) == ("align", 2)
    assert sorted(p.name for p in tmp_path.glob("state*")) == ["state"]
    again = TrainingRun(config, tmp_path)
    assert (again.at_stage, again.at_step) == ("align", 2)
    again.train()
    assert saved_place(tmp_path) == ("task", 4)


def test_facts_that_cannot_be_written_keep_the_checkpoint_before(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    tensors = {"a": torch.ones(3)}
    save_state(folder, {"step": 1}, tensors)
    with files_up_to(4096), pytest.raises(OSError, match="File too large"):
        save_state(folder, {"step": 2, "much": "x" * 5000}, {"a": torch.zeros(3)})
    found = load_state(folder)
    assert found is not None
    assert found[0] == {"step": 1}
    assert differing(found[1], tensors) == []


def test_a_log_whose_last_line_lost_its_end_goes_on_with_a_line_of_its_own(tmp_path: Path) -> None:
    log = tmp_path / "losses.jsonl"
    for torn in ("", "\n", '\n{"step": 2', '\n{"step": 2}'):
        log.write_text('{"step": 0}\n{"step": 1}' + torn)
        trim_log(log, lambda figures: figures["step"] < 2)
        assert log.read_text() == '{"step": 0}\n{"step": 1}\n'


@pytest.mark.parametrize("part", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_named(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save_state(folder, {"step": 1}, {"a": torch.ones(3)})
    path = folder / part
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"state: cannot read the checkpoint .* start over"):
        load_state(folder)


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_a_run_before_it_spreads(
    what: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(learners: Learners) -> None:
        weight = learners.model.link.get_parameter("project.weight")
        if what == "loss":
            weight.data[0, 0] = torch.nan
        else:
            weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        after_steps(patch, poison, stage="align", step=2)
        with pytest.raises(TrainingError, match=f"step 3.* a {what} of .*nan.*checkpoint .* kept"):
            TrainingRun(config, tmp_path).train()
    assert [f["step"] for f in losses(tmp_path)] == [0, 1, 2]
    assert saved_place(tmp_path) == ("align", 2)
    assert all(bool(t.isfinite().all()) for t in saved_tensors(tmp_path).values())
    TrainingRun(config, tmp_path).train()
    assert saved_place(tmp_path) == ("task", 4)


def test_a_folder_of_another_run_is_refused_by_what_differs(
    llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = {"align.steps": 1}
    config = tiny_config(llava_directory, pictures, settings)
    TrainingRun(config, tmp_path).train()
    other = tiny_config(llava_directory, pictures, settings | {"seed": 1})
    with pytest.raises(ConfigError, match="holds a run of another configuration; give"):
        TrainingRun(other, tmp_path)
    facts_file = tmp_path / "state" / "state.json"
    facts = json.loads(facts_file.read_text())
    facts["run"]["model"] = "0" * 64
    facts_file.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="holds a run of another model; give"):
        TrainingRun(config, tmp_path)
