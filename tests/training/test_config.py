"""Configurations that cannot work are refused in clear words, before anything is trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.training.config import TrainConfig
from aligned_vq.training.config_file import config_from, read_config
from aligned_vq.training.run import TrainingRun
from tests.training.tiny import tiny_settings, write_data


def write(path: Path, settings: Any) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


def test_a_file_is_read_over_the_defaults_and_changed_by_key(tmp_path: Path) -> None:
    settings = {
        "codec": {"codebook_sizes": [64, 32], "points": {"low": {"stages": [0], "mean_bytes": 9}}},
        "task": {"steps": 5},
        "lora": {"targets": ["suffix", "projector"]},
    }
    path = write(tmp_path / "run.yaml", settings)
    config = read_config(path, ["task.steps=7", "precision=no", "codec.codebook_sizes=[8]"])
    assert config.codec.codebook_sizes == (8,)
    assert config.codec.points["low"].stages == (0,)
    assert config.codec.points["low"].mean_bytes == 9.0
    assert (config.task.steps, config.task.task) == (7, TrainConfig().task.task)
    assert config.lora.targets == ("suffix", "projector")
    assert config.precision == "no"
    assert config.align == TrainConfig().align


UNREADABLE: dict[str, tuple[Any, str]] = {
    "unknown section": ({"tsk": {"steps": 3}}, "'tsk.steps'"),
    "unknown key": ({"codec": {"codebook_sise": [3]}}, "'codec.codebook_sise'"),
    "unknown key of a point": ({"codec": {"points": {"a": {"bytes": 3}}}}, "codec.points.*'bytes'"),
    "no number": ({"task": {"steps": "many"}}, "task.steps.*int.*many"),
    "no section": ({"task": 3}, "keys below 'task', got 3"),
    "no target": ({"lora": {"targets": ["nose"]}}, "lora.targets.*projector.*nose"),
    "no mapping": ([1, 2], "a training run must be a mapping"),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_what_is_not_a_configuration_is_refused_by_key(case: str, tmp_path: Path) -> None:
    settings, words = UNREADABLE[case]
    path = write(tmp_path / "run.yaml", settings)
    with pytest.raises(ConfigError, match=f"(?s){path}: .*{words}"):
        read_config(path)


def test_a_file_or_a_change_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    with pytest.raises(ConfigError, match="No such file"):
        read_config(path)
    path.write_text("codec: [")
    with pytest.raises(ConfigError, match="YAML file that can be read"):
        read_config(path)
    write(path, {"seed": 1})
    for change in ("seed", "seed.more=1", "task.steps=["):
        with pytest.raises(ConfigError):
            read_config(path, [change])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "norm": ({"codec.split": "ln3@1"}, "'pre', 'ln1@3' or 'ln2@0', got 'ln3@1'"),
    "pre of a block": ({"codec.split": "pre@1"}, "got 1@pre"),
    "block behind": ({"codec.split": "ln1@3"}, "behind the last block .* 0 to 2"),
    "link": ({"codec.link": "closed_form"}, "closed_form link supports only the cut ln1@0"),
    "large codebook": (
        {"codec.codebook_sizes": [512], "codec.points": {}},
        "512 entries .* 408 calibration vectors .*more images",
    ),
    "more images than there are": (
        {"codec.codebook_sizes": [512], "codec.points": {}, "data.calibration_images": 99},
        "at least 512 tokens .* got 408: give more images",
    ),
    "stages": ({"codec.points": {"a": {"stages": [0, 2]}}}, r"'a' must use stages 0 to 1.*\[0, 2"),
    "no stages": ({"codec.points": {"a": {"stages": []}}}, "'a' must use stages 0 to 1"),
    "bytes": ({"codec.points": {"a": {"stages": [0], "mean_bytes": -1}}}, "'a' must be positive"),
    "groups": ({"codec.num_groups": 3}, "8 is not divisible by num_groups 3"),
    "width": ({"codec.codebook_dim": 64}, "codebook_dim must be 1 to 32"),
    "negative steps": ({"align.steps": -1}, "align: steps must be 0 or more .* got -1"),
    "no batch": ({"task.batch_size": 0}, "task: .* batch_size positive, got 0 and 0"),
    "no images": ({"data.calibration_images": 0}, "data.calibration_images must be 1 or more"),
    "no pairs a step": ({"data.pairs_per_image": 0}, "data.pairs_per_image must be 1 or more"),
    "seed": ({"seed": -1}, "seed must be 0 or more, got -1"),
    "save": ({"save_every": 0}, "save_every must be 1 or more"),
    "decay": ({"codebooks.decay": 1.0}, "decay must lie between 0 and 1"),
    "gain": ({"codebooks.rate_gain": 0}, "rate_gain must be positive"),
    "labels in align": ({"align.steps": 1, "align.task": 1}, "takes no task weight"),
    "lora without a task": ({"lora.rank": 2, "align.steps": 1}, "lora: .*task.steps"),
    "lora on nothing": ({"lora.rank": 2, "task.steps": 1, "lora.targets": []}, "give targets"),
    "identity": (
        {"codec.identity": True, "codec.link": "statistics", "align.steps": 1},
        "align: an identity codec has nothing to learn",
    ),
    "identity, learned link": (
        {"codec.identity": True, "lora.rank": 1, "task.steps": 1},
        "identity quantizer has no latents",
    ),
    "data": ({"data.train": "photos"}, "expected training data as .* got 'photos'"),
    "no such folder": ({"data.train": "images:/nowhere"}, "No such file .*/nowhere"),
    "no such model": ({"checkpoint": "/nowhere"}, "'/nowhere' is neither a directory nor"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_run_that_cannot_work_is_refused(
    case: str, llava_directory: Path, pictures: Path, tmp_path: Path
) -> None:
    changes, words = REFUSED[case]
    config = config_from(tiny_settings(llava_directory, pictures, changes), "test")
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        TrainingRun.open(config, tmp_path / "out").train()
    assert not (tmp_path / "out" / "state").exists()


def test_data_that_cannot_be_read_is_refused(llava_directory: Path, tmp_path: Path) -> None:
    def start(train: str, **changes: Any) -> None:
        settings = tiny_settings(llava_directory, tmp_path, {"data.train": train, **changes})
        TrainingRun.open(config_from(settings, "test"), tmp_path / "out")

    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(ConfigError, match=r"expected images .* found none"):
        start(f"images:{empty}")
    folder = tmp_path / "data"
    folder.mkdir()
    write_data(folder)
    with pytest.raises(ConfigError, match=r"questions and answers in images:.* found none"):
        start(f"images:{folder}", **{"task.steps": 1})
    (folder / "03.png").write_bytes(b"no picture")
    with pytest.raises(InvalidInput, match=r"record 3.*damaged"):
        start(f"llava:{folder / 'chat.json'}")
    (folder / "03.png").unlink()
    with pytest.raises(ConfigError, match=r"record 3.*03.png.*no such file"):
        start(f"llava:{folder / 'chat.json'}")
