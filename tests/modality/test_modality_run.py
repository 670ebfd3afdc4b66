"""Whole runs on a few pairs: learning, selection, resumption to the bit, and the bundle."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor

from aligned_vq.cli import main
from aligned_vq.codec.bundle import open_edge_bundle, open_modality_prefix
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.modality.distillation import PrefixDistillation
from aligned_vq.modality.lessons import Teacher
from aligned_vq.modality.run import ModalityRun
from tests.modality.tiny import losses, opened, scores, tiny_settings, write_pairs


def weights(run: ModalityRun) -> dict[str, Tensor]:
    run.train()
    return {name: value.clone() for name, value in run.prefix.state_dict().items()}


@pytest.fixture
def settings(llava_directory: Path, bundle_directory: Path, pairs: Path) -> dict[str, Any]:
    return tiny_settings(llava_directory, bundle_directory, pairs)


def test_a_prefix_comes_nearer_to_the_teacher(settings: dict[str, Any], tmp_path: Path) -> None:
    run = opened(settings | {"steps": 40, "validate_every": 10, "save_every": 40}, tmp_path)
    frozen = {name: value.clone() for name, value in run.frozen.model.state_dict().items()}
    run.train()
    steps = losses(tmp_path)
    assert [line["step"] for line in steps] == list(range(40))
    for term in ("hidden", "answers"):
        first, last = (sum(line[term] for line in part) for part in (steps[:6], steps[-6:]))
        assert last < 0.9 * first
    validated = scores(tmp_path)
    assert [score["step"] for score in validated] == [10, 20, 30, 40]
    assert min(score["answers"] for score in validated[1:]) < validated[0]["answers"]
    # The model around the prefix is the bundle's.
    for name, value in run.frozen.model.state_dict().items():
        assert torch.equal(value, frozen[name]), name


def test_the_selected_weights_are_kept(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = opened(settings, tmp_path)
    best = run.train()
    assert best["selection"] == max(score["selection"] for score in scores(tmp_path))
    validated = scores(tmp_path)
    for score in validated:
        assert score["selection"] == -score["answers"]
    # A second run asks the teacher nothing, takes no step, and ends with the same weights.
    again = opened(settings, tmp_path)
    monkeypatch.setattr(Teacher, "__call__", None)
    assert again.train() == best
    assert len(losses(tmp_path)) == 6
    for name, value in run.prefix.state_dict().items():
        assert torch.equal(value, again.prefix.state_dict()[name])


def test_an_interrupted_run_ends_with_the_same_weights(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = weights(opened(settings, tmp_path / "whole"))
    original = PrefixDistillation.loss

    def stopping(self: Any, model: Any, step: int, batch: Any) -> Any:
        if step == 2:
            signal.raise_signal(signal.SIGINT)  # noted, and obeyed after this step
        return original(self, model, step, batch)

    with monkeypatch.context() as patch:
        patch.setattr(PrefixDistillation, "loss", stopping)
        with pytest.raises(KeyboardInterrupt):
            weights(opened(settings, tmp_path / "parts"))
    assert len(losses(tmp_path / "parts")) == 3
    resumed = weights(opened(settings, tmp_path / "parts"))
    for name, value in whole.items():
        assert torch.equal(value, resumed[name]), name
    assert losses(tmp_path / "parts") == losses(tmp_path / "whole")
    assert scores(tmp_path / "parts") == scores(tmp_path / "whole")


def test_stored_and_repeated_teaching_agree(settings: dict[str, Any], tmp_path: Path) -> None:
    # In bfloat16, batches of other sizes alone would differ by more.
    settings = settings | {"bfloat16": False}
    data = settings["data"] | {"cache_mib": 0}
    stored, repeated = tmp_path / "stored", tmp_path / "repeated"
    opened(settings, stored).train()
    opened(settings | {"data": data}, repeated).train()
    assert (stored / "lessons" / "train" / "hidden.npy").exists()
    assert not (repeated / "lessons").exists()
    # The stored outputs are rounded to half precision.
    for one, other in zip(losses(stored), losses(repeated), strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=0.01)


def test_too_many_bytes_cost(settings: dict[str, Any], tmp_path: Path) -> None:
    changes = {"steps": 30, "validate_every": 30, "max_mean_bytes": 4.0}
    sizes = {}
    for rate in (0.0, 20.0):
        out = tmp_path / f"{rate:g}"
        opened(settings | changes | {"rate": rate}, out).train()
        coded = [line["bytes"] for line in losses(out) if "bytes" in line]
        sizes[rate] = sum(coded[-5:])
        last = scores(out)[-1]
        excess = rate * (last["bytes"] / 4.0 - 1)
        assert last["selection"] == pytest.approx(-last["answers"] - excess)
    assert sizes[20.0] < 0.95 * sizes[0.0]


def test_infrared_pairs_are_learned_from(
    llava_directory: Path, bundle_directory: Path, tmp_path: Path
) -> None:
    folder = write_pairs(tmp_path / "pairs", "infrared")
    settings = tiny_settings(
        llava_directory,
        bundle_directory,
        folder,
        modality="infrared",
        data={"train": f"folders:{folder}#infrared", "fixed_range": None},
    )
    run = opened(settings, tmp_path / "run")
    run.train()
    manifest = run.export()
    assert manifest.edge_half("infrared").range == run.config.data.range()


def test_from_pairs_to_a_bundle(
    settings: dict[str, Any],
    bundle_directory: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = tmp_path / "run.yaml"
    config.write_text(yaml.safe_dump(settings))
    out = tmp_path / "run"
    assert main(["train", str(config), "--out", str(out)]) == 0
    assert f"{out / 'bundle'}: depth, step " in capsys.readouterr().out
    before, manifest = read_manifest(bundle_directory), read_manifest(out / "bundle")
    assert manifest.digest() == before.digest()
    half = manifest.edge_half("depth")
    assert half.range is not None
    assert half.range.fixed == (1.0, 4.5)
    # What a device opens is what was selected.
    run = opened(settings, out)
    run.train()
    exported = open_modality_prefix(out / "bundle", manifest, "depth")
    rgb = open_edge_bundle(out / "bundle").prefix.state_dict()
    for name, value in run.prefix.state_dict().items():
        stored = rgb[name].dtype
        assert torch.equal(exported.state_dict()[name].to(stored), value.to(stored)), name
    assert any(not torch.equal(value, rgb[name]) for name, value in exported.state_dict().items())
