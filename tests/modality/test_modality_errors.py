"""Settings and data that no prefix can be trained with are refused by name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from aligned_vq.cli import main
from aligned_vq.data.views import open_views
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.files.config_file import config_of
from aligned_vq.modality.config import ModalityRunConfig
from tests.conftest import random_llava
from tests.modality.tiny import QUESTIONS, opened, tiny_settings, write_pairs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modality": "radar"}, "radar"),
        ({"modality": "rgb"}, "rgb"),
        ({"steps": 0}, "steps must be 1 or more, got 0"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"learning_rate": float("inf")}, "learning_rate must be positive and finite"),
        ({"warmup_steps": -1}, "warmup_steps must be 0 or more"),
        ({"data": {"questions": [" "]}}, "data.questions must have text"),
        ({"max_mean_bytes": 0}, "max_mean_bytes must be positive"),
        ({"answers": 0, "hidden": 0}, "must not both be 0"),
        ({"data": {"fixed_range": [4.0, 1.0]}}, "fixed range"),
        ({"data": {"image_folder": "x"}}, "image_folder"),
    ],
)
def test_impossible_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_of(ModalityRunConfig(), {"modality": "depth"} | changes, "test")


def test_a_pair_without_its_other_half(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path)
    (folder / "train" / "depth" / "03.png").unlink()
    with pytest.raises(ConfigError, match=r"two images of each name.*03\.png"):
        open_views(f"folders:{folder}", "depth", QUESTIONS, 8, 0.3)


def test_a_half_that_disappears(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path)
    training, _ = open_views(f"folders:{folder}", "depth", QUESTIONS, 8, 0.3)
    for path in (folder / "train" / "depth").iterdir():
        path.unlink()
    with pytest.raises(ConfigError, match="expected its depth image at"):
        training[0]


def test_halves_of_other_sizes(tmp_path: Path) -> None:
    folder = write_pairs(tmp_path)
    wide = np.full((60, 90), 2000, np.uint16)
    Image.fromarray(wide).save(folder / "train" / "depth" / "00.png")
    with pytest.raises(InvalidInput, match="same aspect, got 64 x 60 of rgb and 90 x 60 of depth"):
        open_views(f"folders:{folder}", "depth", QUESTIONS, 8, 0.3)


def test_pairs_of_another_modality(pairs: Path) -> None:
    with pytest.raises(ConfigError, match="pairs of rgb and infrared, got depth"):
        open_views(f"folders:{pairs}", "infrared", QUESTIONS, 8, 0.3)


def test_questions_belong_to_pairs_of_files(pairs: Path) -> None:
    with pytest.raises(ConfigError, match="expected questions to ask"):
        open_views(f"folders:{pairs}", "depth", (), 8, 0.3)
    with pytest.raises(ConfigError, match="expected no questions for the reference world"):
        open_views("reference:40", "depth", QUESTIONS, 8, 0.3)


@pytest.mark.parametrize("number", ["0", "-3", "many", "\u0661"])
def test_a_number_of_scenes_that_is_none(number: str) -> None:
    with pytest.raises(ConfigError, match="number of scenes"):
        open_views(f"reference:{number}", "depth", (), 8, 0.3)


def test_too_few_scenes_to_hold_some_out() -> None:
    with pytest.raises(ConfigError, match="for training and for validation, got 1 scenes"):
        open_views("reference:1", "depth", (), 8, 0.3)


def test_a_bundle_without_codebooks(
    llava_directory: Path,
    identity_bundle_directory: Path,
    pairs: Path,
    tmp_path: Path,
) -> None:
    settings = tiny_settings(llava_directory, identity_bundle_directory, pairs)
    with pytest.raises(ConfigError, match="bundle with codebooks, got the identity quantizer"):
        opened(settings, tmp_path / "run")


def test_a_checkpoint_of_another_bundle(
    llava_directory: Path, bundle_directory: Path, pairs: Path, tmp_path: Path
) -> None:
    other = tmp_path / "llava"
    other.mkdir()
    for path in llava_directory.iterdir():
        (other / path.name).write_bytes(path.read_bytes())
    random_llava(seed=1).save_pretrained(other)
    settings = tiny_settings(other, bundle_directory, pairs)
    with pytest.raises(ConfigError, match="with other vision weights; use it with the checkpoint"):
        opened(settings, tmp_path / "run")


def test_the_folder_of_another_run(
    llava_directory: Path, bundle_directory: Path, pairs: Path, tmp_path: Path
) -> None:
    opened(tiny_settings(llava_directory, bundle_directory, pairs), tmp_path / "run")
    with pytest.raises(ConfigError, match="another configuration or teacher"):
        opened(tiny_settings(llava_directory, bundle_directory, pairs, seed=1), tmp_path / "run")


def test_the_command_says_what_is_wrong(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "run.yaml"
    config.write_text("modality: depth\nstep: 3\n")
    assert main(["train", str(config), "--out", str(tmp_path / "run")]) == 1
    assert "step" in capsys.readouterr().err
