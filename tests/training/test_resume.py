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
from safetensors.torch import save_file
from torch import nn

from aligned_vq.errors import ConfigError, TrainingError
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.modules import TrainedModules
from aligned_vq.training.run import TrainingRun
from aligned_vq.training.state import ModuleFile, load_state, save_state, trim_log
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


def cut(modules: TrainedModules) -> None:
    raise PowerCut


def interrupt(modules: TrainedModules) -> None:
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
    TrainingRun.open(config, whole).train()

    with monkeypatch.context() as patch:
        after_steps(patch, interrupt, stage="align", step=0)
        with pytest.raises(KeyboardInterrupt):
            TrainingRun.open(config, parts).train()
    assert saved_place(parts) == ("align", 1)
    with monkeypatch.context() as patch:
        after_steps(patch, cut, stage="align", step=3)
        with pytest.raises(PowerCut):
            TrainingRun.open(config, parts).train()
    assert saved_place(parts) == ("align", 2)
    with monkeypatch.context() as patch:
        after_steps(patch, cut, stage="task", step=3)
        with pytest.raises(PowerCut):
            TrainingRun.open(config, parts).train()
    assert saved_place(parts) == ("task", 2)
    with (parts / "losses.jsonl").open("a") as file:
        file.write('{"stage": "task", "st')  # cut short by the same power cut
    TrainingRun.open(config, parts).train()

    assert losses(parts) == losses(whole)
    assert differing(saved_tensors(parts), saved_tensors(whole)) == []
    TrainingRun.open(config, parts).train()  # already done: nothing more happens
    assert losses(parts) == losses(whole)


def test_a_full_disk_keeps_the_checkpoint_before(config: TrainConfig, tmp_path: Path) -> None:
    run = TrainingRun.open(config, tmp_path)
    save = run._save

    def on_a_full_disk(stage: str, step: int, optimiser: Any) -> None:
        with files_up_to(4096 if step == 4 else resource.RLIM_INFINITY):
            save(stage, step, optimiser)

    run._save = on_a_full_disk  # type: ignore[method-assign]
    with pytest.raises(OSError, match=r"expected to write .*state, got: File too large"):
        run.train()
    assert saved_place(tmp_path) == ("align", 2)
    assert sorted(p.name for p in tmp_path.glob("state*")) == ["state"]
    again = TrainingRun.open(config, tmp_path)
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


def test_a_state_with_former_names_goes_on_to_the_same_bits(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, old = tmp_path / "whole", tmp_path / "old"
    TrainingRun.open(config, whole).train()
    with monkeypatch.context() as patch:
        after_steps(patch, cut, stage="align", step=3)
        with pytest.raises(PowerCut):
            TrainingRun.open(config, old).train()
    path = old / "state" / "state.safetensors"
    former = {
        name.replace("updater.", "keeper.").replace(".sensitivity", ".felt"): tensor
        for name, tensor in saved_tensors(old).items()
    }
    assert "keeper.states.0.felt" in former
    save_file(former, path)
    TrainingRun.open(config, old).train()
    assert losses(old) == losses(whole)
    assert differing(saved_tensors(old), saved_tensors(whole)) == []


def test_a_state_without_some_tensors_is_refused(config: TrainConfig, tmp_path: Path) -> None:
    TrainingRun.open(config, tmp_path).train()
    rest = {n: t for n, t in saved_tensors(tmp_path).items() if n != "updater.states.0.seen"}
    save_file(rest, tmp_path / "state" / "state.safetensors")
    with pytest.raises(ConfigError, match=r"expected updater.states.0.seen in the run's state"):
        TrainingRun.open(config, tmp_path)


@pytest.mark.parametrize("part", ["state.json", "state.safetensors"])
def test_a_damaged_checkpoint_is_named(part: str, tmp_path: Path) -> None:
    folder = tmp_path / "state"
    save_state(folder, {"step": 1}, {"a": torch.ones(3)})
    path = folder / part
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"state: cannot read the checkpoint .* start over"):
        load_state(folder)


def test_a_file_that_is_no_state_of_a_module_is_refused_by_name(tmp_path: Path) -> None:
    def file_of(module: nn.Module) -> ModuleFile:
        return ModuleFile(tmp_path / "line.pt", module, torch.optim.AdamW(module.parameters()))

    line = file_of(nn.Linear(4, 1))
    file_of(nn.Linear(3, 3)).save(4)
    with pytest.raises(ConfigError, match=r"line.pt: cannot read .*size mismatch.*remove"):
        line.restore()
    line.save(5)
    assert line.restore() == 5
    content = (tmp_path / "line.pt").read_bytes()
    for damaged in (b"", b"x" * 99, content[:-30]):
        (tmp_path / "line.pt").write_bytes(damaged)
        with pytest.raises(ConfigError, match=r"line.pt: cannot read .*remove the file"):
            line.restore()


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_nan_stops_a_run_before_it_spreads(
    what: str, config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def poison(modules: TrainedModules) -> None:
        weight = modules.model.link.get_parameter("project.weight")
        if what == "loss":
            weight.data[0, 0] = torch.nan
        else:
            weight.register_hook(lambda gradient: gradient * torch.nan)  # type: ignore[no-untyped-call]

    with monkeypatch.context() as patch:
        after_steps(patch, poison, stage="align", step=2)
        with pytest.raises(
            TrainingError, match=f"finite {what}.* at step 3, got nan.*checkpoint .* kept"
        ):
            TrainingRun.open(config, tmp_path).train()
    assert [f["step"] for f in losses(tmp_path)] == [0, 1, 2]
    assert saved_place(tmp_path) == ("align", 2)
    assert all(bool(t.isfinite().all()) for t in saved_tensors(tmp_path).values())
    TrainingRun.open(config, tmp_path).train()
    assert saved_place(tmp_path) == ("task", 4)


def test_a_folder_of_another_run_is_refused_by_what_differs(
    llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    settings = {"align.steps": 1}
    config = tiny_config(llava_directory, pictures, settings)
    TrainingRun.open(config, tmp_path).train()
    other = tiny_config(llava_directory, pictures, settings | {"seed": 1})
    with pytest.raises(ConfigError, match="holds a run of another configuration; give"):
        TrainingRun.open(other, tmp_path)
    facts_file = tmp_path / "state" / "state.json"
    facts = json.loads(facts_file.read_text())
    facts["run"]["model"] = "0" * 64
    facts_file.write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="holds a run of another model; give"):
        TrainingRun.open(config, tmp_path)
