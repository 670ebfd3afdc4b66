"""Bundles that are replaced: whole, for everybody, and never somebody else's files."""

from __future__ import annotations

import itertools
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest

from aligned_vq.calibration.codec import (
    CalibratedCodec,
    CutFeatures,
    calibrate_codec,
    export_bundle,
)
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.bundle_files import BUNDLE_FILES, read_manifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.atomic_folder import new_folder
from aligned_vq.files.staging import NotWritten
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from tests.conftest import BUNDLE_PLAN
from tests.disk import files_up_to
from tests.e2e.raw import assert_clear

OPENERS: dict[str, Any] = {"edge": open_edge_bundle, "cloud": open_cloud_bundle}


@pytest.fixture
def bundle(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def checkpoint(llava_directory: Path) -> LlavaCheckpoint:
    return LlavaCheckpoint(llava_directory)


@pytest.fixture(scope="module")
def codec(checkpoint: LlavaCheckpoint, examples: CutFeatures) -> CalibratedCodec:
    """Of the same geometry as the bundle's, from another seed."""
    return calibrate_codec(checkpoint, BUNDLE_PLAN, examples, seed=9)


def test_anybody_may_read_a_bundle_and_nothing_else_is_deleted(
    bundle: Path, checkpoint: LlavaCheckpoint, codec: CalibratedCodec
) -> None:
    before = read_manifest(bundle)
    (bundle / "notes.txt").write_text("mine")
    with pytest.raises(ConfigError, match=r"got one with 'notes\.txt'; move these away"):
        export_bundle(checkpoint, codec, bundle)
    assert (read_manifest(bundle), (bundle / "notes.txt").read_text()) == (before, "mine")
    (bundle / "notes.txt").unlink()
    manifest = export_bundle(checkpoint, codec, bundle)
    assert read_manifest(bundle) == manifest != before
    assert {oct(path.stat().st_mode & 0o777) for path in bundle.iterdir()} == {"0o644"}
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]


def test_a_disk_that_is_full_leaves_the_bundle_before(
    bundle: Path, checkpoint: LlavaCheckpoint, codec: CalibratedCodec
) -> None:
    before = read_manifest(bundle)
    with files_up_to(5000), pytest.raises(NotWritten, match="File too large") as caught:
        export_bundle(checkpoint, codec, bundle)
    assert_clear(str(caught.value))
    for opener in OPENERS.values():
        assert opener(bundle).manifest == before


def test_whoever_opens_a_bundle_while_it_is_replaced_gets_one_of_the_two(
    bundle: Path, checkpoint: LlavaCheckpoint, codec: CalibratedCodec, tmp_path: Path
) -> None:
    """Or a clear error, but never some of each."""
    other_bundle = tmp_path / "other"
    export_bundle(checkpoint, codec, other_bundle)
    manifests = [read_manifest(bundle), read_manifest(other_bundle)]
    copies = [
        shutil.copytree(own, bundle.with_name(own.name + "-copy")) for own in (bundle, other_bundle)
    ]
    done = threading.Event()

    def replace_again_and_again() -> None:
        for number in itertools.count(1):
            if done.is_set():
                return
            with new_folder(bundle, BUNDLE_FILES) as new:
                shutil.copytree(copies[number % 2], new, dirs_exist_ok=True)

    writer = threading.Thread(target=replace_again_and_again)
    writer.start()
    seen: list[int] = []
    refusals: list[str] = []
    try:
        for opener in itertools.cycle(OPENERS.values()):
            try:
                opened = opener(bundle)
            except ConfigError as error:
                refusals.append(str(error))
                continue
            seen.append(manifests.index(opened.manifest))
            assert opened.codec.spec.digest == opened.manifest.digest()
            if len(seen) >= 40 and set(seen) == {0, 1}:
                break
    finally:
        done.set()
        writer.join()
    assert all("; " in refusal and str(bundle) in refusal for refusal in refusals)
