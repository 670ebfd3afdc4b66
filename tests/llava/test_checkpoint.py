"""Checkpoints: what can be split opens lazily, what cannot is refused by name."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub.errors import EntryNotFoundError, LocalEntryNotFoundError
from safetensors.torch import load_file, save_file
from transformers import LlavaForConditionalGeneration

from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix, suffix_names
from aligned_vq.types import SplitPoint

CUT = SplitPoint(1, "ln1")
INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


@pytest.fixture
def folder(llava_directory: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(llava_directory, tmp_path / "llava"))


@pytest.fixture(scope="module")
def sharded(llava_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same checkpoint in many files."""
    path = tmp_path_factory.mktemp("sharded")
    model = LlavaForConditionalGeneration.from_pretrained(llava_directory, dtype=torch.float32)
    model.save_pretrained(path, max_shard_size="20KB")
    return path


def changed_json(path: Path, **fields: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def refusal(source: str | Path) -> str:
    with pytest.raises(ConfigError) as caught:
        LlavaCheckpoint(source)
    words = str(caught.value)
    assert "\n" not in words
    return words


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"model_type": "bert", "hidden_size": 768}, ["'bert'", "expected 'llava'"]),
        ({"model_type": "llava_next"}, ["'llava_next'", "expected 'llava'"]),
        ({"model_type": "llava_llama"}, ["LLaVA's original format", "llava-hf/llava-1.5-7b-hf"]),
        ({"model_type": "llava", "mm_vision_tower": "x"}, ["original format", "llava-hf/"]),
        ({}, ["type None", "expected 'llava'"]),
        ([], ["type None"]),
        (7, ["type None"]),
        (None, ["type None"]),
        ({"model_type": "llava"}, ["expected a vision_config", "got None"]),
        ({"model_type": "llava", "vision_config": []}, ["expected a vision_config"]),
        (
            {"model_type": "llava", "vision_config": {"model_type": "siglip_vision_model"}},
            ["'siglip_vision_model'", "expected 'clip_vision_model'"],
        ),
        ({"model_type": "llava", "vision_config": {"patch_size": 0}}, ["patch_size", "got 0"]),
        ({"model_type": "llava", "vision_config": {"hidden_size": "big"}}, ["got 'big'"]),
        (
            {"model_type": "llava", "vision_config": {}, "vision_feature_layer": "last"},
            ["wrong type", "config.json"],
        ),
        ({"model_type": "llava", "vision_config": {}, "vision_feature_layer": 99}, ["got 99"]),
    ],
    ids=str,
)
def test_a_config_that_is_not_llavas(tmp_path: Path, config: object, named: list[str]) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    words = refusal(tmp_path)
    assert all(name in words for name in named), words


def test_a_directory_without_config(tmp_path: Path) -> None:
    assert f"{tmp_path}: expected a file config.json, found none" in refusal(tmp_path)


@pytest.mark.parametrize("name", ["config.json", INDEX])
@pytest.mark.parametrize("content", [b"", b"{", b'{"a": \xff}'])
def test_json_that_is_not(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    words = refusal(folder)
    assert f"{folder / name}: cannot be read as JSON" in words


@pytest.mark.parametrize("index", [{}, [], {"weight_map": []}, {"weight_map": {"a": 1}}], ids=str)
def test_an_index_without_a_map(folder: Path, index: object) -> None:
    (folder / INDEX).write_text(json.dumps(index))
    assert "expected a weight_map" in refusal(folder)


def test_no_safetensors(folder: Path) -> None:
    (folder / SINGLE).rename(folder / "pytorch_model.bin")
    assert f"expected {SINGLE} or {INDEX}, found neither; save the checkpoint as" in refusal(folder)


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.5, 0.999])
def test_truncated_safetensors(folder: Path, share: float) -> None:
    path = folder / SINGLE
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert str(path) in refusal(folder)
    assert "safetensors file" in refusal(folder)


def test_a_vision_tower_of_other_tensors(folder: Path) -> None:
    tensors = load_file(folder / SINGLE)
    save_file(
        {name.replace("layer_norm1", "norm1"): t for name, t in tensors.items()}, folder / SINGLE
    )
    with pytest.raises(ConfigError, match=r"layer_norm1\.bias', found none; this tower"):
        load_prefix(LlavaCheckpoint(folder), CUT)


def test_no_image_processor(folder: Path) -> None:
    (folder / "processor_config.json").unlink()
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="save the processor in the model"):
        LlavaCheckpoint(folder).processor()


def test_a_prefix_opens_what_it_runs_and_nothing_else(llava_directory: Path) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    assert checkpoint.opened == set()
    load_prefix(checkpoint, CUT)
    assert checkpoint.opened
    for name in checkpoint.opened:
        assert "vision_tower" in name
        assert not any(part in name for part in ("language_model", "lm_head", "projector"))
        assert not any(f"layers.{block}." in name for block in (2, 3))
    prefix = set(checkpoint.opened)
    checkpoint.opened.clear()
    checkpoint.vision_digest(suffix_names(checkpoint, CUT))
    assert checkpoint.opened
    assert not checkpoint.opened & prefix


def test_shards_are_opened_one_by_one(llava_directory: Path, sharded: Path, tmp_path: Path) -> None:
    """The parts without the prefix's tensors are not even there."""
    files: dict[str, str] = json.loads((sharded / INDEX).read_text())["weight_map"]
    assert len(set(files.values())) > 5
    whole = load_prefix(LlavaCheckpoint(llava_directory), CUT).state_dict()
    checkpoint = LlavaCheckpoint(sharded)
    load_prefix(checkpoint, CUT)
    needed = {files[name] for name in checkpoint.opened}
    assert needed < set(files.values())

    for name in ("config.json", INDEX, *needed):
        shutil.copy(sharded / name, tmp_path)
    split = load_prefix(LlavaCheckpoint(tmp_path), CUT).state_dict()
    assert split.keys() == whole.keys()
    assert all(torch.equal(split[name], whole[name]) for name in whole)

    gone = sorted(needed)[0]
    (tmp_path / gone).unlink()
    with pytest.raises(ConfigError, match=f"expected a file {gone}, found none"):
        load_prefix(LlavaCheckpoint(tmp_path), CUT)


@pytest.mark.parametrize(
    "style", ["vision_tower.vision_model.", "vision_tower.", "model.vision_tower."]
)
def test_tensor_names_of_other_releases(folder: Path, llava_directory: Path, style: str) -> None:
    renamed = {}
    for name, tensor in load_file(folder / SINGLE).items():
        inside = name.removeprefix("model.vision_tower.").removeprefix("vision_tower.")
        inside = inside.removeprefix("vision_model.")
        if "vision_tower" in name:
            renamed[style + inside] = tensor
        else:
            renamed[name.replace("model.language_model.", "language_model.model.")] = tensor
    save_file(renamed, folder / SINGLE)
    old, new = LlavaCheckpoint(folder), LlavaCheckpoint(llava_directory)
    state, expected = (load_prefix(c, CUT).state_dict() for c in (old, new))
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    assert old.vision_digest(suffix_names(old, CUT)) == new.vision_digest(suffix_names(new, CUT))
    assert all(name.startswith(style) for name in old.opened)


def test_sources_that_are_neither_directory_nor_on_the_hub(tmp_path: Path) -> None:
    """In their own process, because the hub's library reads its settings when it is imported."""
    sources = ["no-such-directory/llava", "/no/such/directory", "a b", "x" * 120]
    program = """
import sys
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint

for source in sys.argv[1:]:
    try:
        LlavaCheckpoint(source)
    except ConfigError as error:
        print(error)
"""
    offline = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path)}
    command = [sys.executable, "-c", program, *sources]
    done = subprocess.run(
        command, env=offline, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    for source, line in zip(sources, done.stdout.splitlines(), strict=True):
        assert line.startswith(repr(source))
        assert "neither a directory nor a checkpoint that can be fetched from the hub" in line
        assert "expected a path or an id such as llava-hf/llava-1.5-7b-hf" in line


def test_the_hub_file_by_file(llava_directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file the hub does not have may be absent; one it cannot give now may not."""
    unreachable = False

    def download(repo_id: str, filename: str, revision: str | None = None) -> str:
        assert (repo_id, revision) == ("someone/llava", "main")
        if (llava_directory / filename).is_file():
            return str(llava_directory / filename)
        raise LocalEntryNotFoundError(filename) if unreachable else EntryNotFoundError(filename)

    def snapshot(repo_id: str, revision: str | None = None, allow_patterns: Any = None) -> str:
        if unreachable:
            raise LocalEntryNotFoundError("offline")
        return str(llava_directory)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    for unreachable in (False, True):
        checkpoint = LlavaCheckpoint("someone/llava", "main")
        assert checkpoint.model_id == "someone/llava"
        assert len(load_prefix(checkpoint, CUT).state_dict()) > 5
        if unreachable:
            with pytest.raises(ConfigError, match="fetched from the hub"):
                checkpoint.directory()
        else:
            assert checkpoint.directory() == llava_directory
