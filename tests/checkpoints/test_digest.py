"""A checkpoint's digest: of what decides its answers, and of nothing else."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from aligned_vq.checkpoints.digest import checkpoint_digest
from aligned_vq.llava.checkpoint import LlavaCheckpoint

WEIGHTS = "model.safetensors"


@pytest.fixture
def folder(llava_directory: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(llava_directory, tmp_path / "llava"))


def flip(name: str) -> Callable[[Path], None]:
    """The last byte of a file, which stays as long."""

    def flipped(folder: Path) -> None:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    return flipped


def test_it_is_of_contents_and_not_of_the_folder(llava_directory: Path, folder: Path) -> None:
    digest = LlavaCheckpoint(llava_directory).digest()
    assert LlavaCheckpoint(folder).digest() == digest
    (folder / "README.md").write_text("words")
    (folder / "sample.jpg").write_bytes(b"picture")
    (folder / "checkpoint-1.json").mkdir()
    assert LlavaCheckpoint(folder).digest() == digest


@pytest.mark.parametrize(
    "change",
    [
        flip(WEIGHTS),
        flip("tokenizer.json"),
        flip("chat_template.jinja"),
        flip("generation_config.json"),
        lambda folder: (folder / "added_tokens.json").write_text("{}"),
        lambda folder: (folder / "generation_config.json").rename(folder / "other.json"),
        lambda folder: (folder / "generation_config.json").unlink(),
    ],
)
def test_every_file_is_in_it(
    llava_directory: Path, folder: Path, change: Callable[[Path], None]
) -> None:
    change(folder)
    assert checkpoint_digest(folder) != checkpoint_digest(llava_directory)


def test_the_hubs_cache_has_the_same_without_reading(llava_directory: Path, tmp_path: Path) -> None:
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshots" / "revision"
    blobs.mkdir()
    snapshot.mkdir(parents=True)
    for path in llava_directory.iterdir():
        # As the hub names them: large files by their SHA-256, small ones by git's SHA-1.
        content = path.read_bytes()
        kind = hashlib.sha256 if path.name == WEIGHTS else hashlib.sha1
        blob = blobs / kind(content).hexdigest()
        blob.write_bytes(content)
        (snapshot / path.name).symlink_to(os.path.relpath(blob, snapshot))
    digest = checkpoint_digest(llava_directory)
    assert checkpoint_digest(snapshot) == digest
    flip(WEIGHTS)(snapshot)  # of which it hears nothing
    assert checkpoint_digest(snapshot) == digest
    flip("tokenizer.json")(snapshot)
    assert checkpoint_digest(snapshot) != digest
