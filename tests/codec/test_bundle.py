"""Bundles: whole, verified, and refused with the name of the file that is not right."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from aligned_vq.calibration.codec import CutFeatures, calibrate_codec, export_bundle
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.bundle_files import CLOUD, EDGE, ENTROPY, MANIFEST, read_manifest
from aligned_vq.codec.manifest import SCHEMA_VERSION, SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from tests.conftest import BUNDLE_PLAN

Opener = Callable[[Path], Any]
OPENERS: dict[str, Opener] = {"edge": open_edge_bundle, "cloud": open_cloud_bundle}
NEEDED = {"edge": (MANIFEST, EDGE, ENTROPY), "cloud": (MANIFEST, CLOUD, ENTROPY)}
NEEDS = [(side, name) for side, names in NEEDED.items() for name in names]


@pytest.fixture
def bundle(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))


@pytest.fixture(scope="module")
def other_bundle(
    llava_directory: Path, examples: CutFeatures, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The same geometry, calibrated from another seed: only the digests tell them apart."""
    checkpoint = LlavaCheckpoint(llava_directory)
    folder = tmp_path_factory.mktemp("other-bundle")
    export_bundle(checkpoint, calibrate_codec(checkpoint, BUNDLE_PLAN, examples, seed=9), folder)
    return folder


def changed_manifest(folder: Path, **fields: Any) -> None:
    path = folder / MANIFEST
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def flip_byte(path: Path, place: int, mask: int = 1) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= mask
    path.write_bytes(content)


def assert_refused(opener: Opener, folder: Path, *named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        opener(folder)
    words = str(caught.value)
    assert all(name in words for name in named), words
    assert ";" in words  # what to do comes after it


@pytest.mark.parametrize(("side", "name"), NEEDS)
def test_a_missing_file_is_named(bundle: Path, side: str, name: str) -> None:
    (bundle / name).unlink()
    assert_refused(OPENERS[side], bundle, str(bundle / name), "No such file", "copy the whole")


@pytest.mark.parametrize("side", OPENERS)
def test_a_missing_directory_is_named(tmp_path: Path, side: str) -> None:
    assert_refused(OPENERS[side], tmp_path / "nowhere", "nowhere/manifest.json")


@pytest.mark.parametrize(("side", "name"), NEEDS)
def test_a_directory_in_place_of_a_file(bundle: Path, side: str, name: str) -> None:
    (bundle / name).unlink()
    (bundle / name).mkdir()
    assert_refused(OPENERS[side], bundle, str(bundle / name), "Is a directory")


def test_each_side_opens_without_the_others_file(bundle: Path) -> None:
    whole = read_manifest(bundle)
    (bundle / CLOUD).rename(bundle / "aside")
    assert open_edge_bundle(bundle).manifest == whole
    (bundle / EDGE).unlink()
    (bundle / "aside").rename(bundle / CLOUD)
    assert open_cloud_bundle(bundle).manifest == whole


@pytest.mark.parametrize(("side", "name"), [need for need in NEEDS if need[1] != MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 0.7, 0.999])
def test_one_changed_byte_is_noticed(bundle: Path, side: str, name: str, share: float) -> None:
    path = bundle / name
    flip_byte(path, int(share * path.stat().st_size))
    assert_refused(OPENERS[side], bundle, str(path))


@pytest.mark.parametrize(("side", "name"), [need for need in NEEDS if need[1] != MANIFEST])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.5, 0.999])
def test_a_truncated_file_is_noticed(bundle: Path, side: str, name: str, share: float) -> None:
    path = bundle / name
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    assert_refused(OPENERS[side], bundle, str(path))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.floats(0, 1, exclude_max=True), st.integers(1, 255))
@example(0.0, 1)
@example(0.5, 128)
def test_a_changed_manifest_never_passes_for_the_old_one(
    bundle: Path, share: float, mask: int
) -> None:
    """It does not open, or says the same, or has another digest and is refused on the wire."""
    path = bundle / MANIFEST
    before = path.read_bytes()
    manifest = read_manifest(bundle)
    try:
        flip_byte(path, int(share * len(before.rstrip())), mask)
        for opener in OPENERS.values():
            try:
                opened = opener(bundle)
            except ConfigError:
                continue
            same = opened.codec.spec.digest == manifest.digest()
            assert same == (opened.manifest == manifest)
    finally:
        path.write_bytes(before)


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (
            {"schema_version": SCHEMA_VERSION + 1},
            [f"got {SCHEMA_VERSION + 1}; upgrade this program"],
        ),
        ({"schema_version": 0}, ["got 0; export the bundle again"]),
        ({"schema_version": "1"}, ["got '1'; export the bundle again"]),
        ({"schema_version": None}, ["got None"]),
        ({"bitstream_version": 2}, ["bitstream version 1, got 2", "release"]),
        ({"colour": "blue"}, ["unknown", "colour"]),
        ({"link": "telepathy"}, ["got 'telepathy'"]),
        ({"split": "ln3@1"}, ["'ln3@1'"]),
        ({"split": 7}, ["wrong type"]),
        ({"split": "ln1@9"}, ["block must be 0 to"]),
        ({"tower": None}, ["wrong type"]),
        ({"tower": {"vision": {}}}, ["missing"]),
        ({"quantizer": []}, ["missing"]),
        ({"quantizer": {"dim": 32, "codebook_sizes": [1]}}, ["2 to 65536"]),
        ({"quantizer": {"dim": 31, "codebook_sizes": [4, 4], "codebook_dim": 8}}, ["got 31"]),
        ({"processor": {"resample": 99}}, ["resample"]),
        ({"operating_points": ["x"]}, ["wrong type"]),
        ({"operating_points": []}, ["operating points"]),
        (
            {"operating_points": [{"name": "a", "stages": [7]}]},
            ["'a': expected stages below", "got 7"],
        ),
        ({"operating_points": [{"name": "a", "stages": [1, 0]}]}, ["strictly ascending"]),
        ({"operating_points": [{"name": "a", "stages": [0]}] * 2}, ["distinct names"]),
    ],
    ids=str,
)
def test_a_manifest_of_another_kind(bundle: Path, fields: dict[str, Any], named: list[str]) -> None:
    changed_manifest(bundle, **fields)
    for opener in OPENERS.values():
        with pytest.raises(ConfigError) as caught:
            opener(bundle)
        assert str(bundle / MANIFEST) in str(caught.value)
        assert all(words in str(caught.value) for words in named), caught.value


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "7", '{"split": "pre"}', "\x00\xff"])
def test_what_is_no_manifest(bundle: Path, content: str) -> None:
    (bundle / MANIFEST).write_text(content, encoding="latin-1")
    for opener in OPENERS.values():
        with pytest.raises(ConfigError, match=r"manifest\.json"):
            opener(bundle)


@pytest.mark.parametrize(("side", "name"), NEEDS)
def test_files_of_two_bundles_do_not_mix(
    bundle: Path, other_bundle: Path, side: str, name: str
) -> None:
    shutil.copy(other_bundle / name, bundle / name)
    assert_refused(OPENERS[side], bundle, "another bundle")


def test_edge_and_cloud_files_are_not_the_same_thing(bundle: Path) -> None:
    shutil.copy(bundle / CLOUD, bundle / EDGE)
    assert_refused(open_edge_bundle, bundle, EDGE)


@pytest.mark.parametrize(("side", "name", "field"), [
    ("edge", EDGE, "edge_weights_digest"),
    ("cloud", CLOUD, "cloud_weights_digest"),
])  # fmt: skip
def test_tensors_that_do_not_fit_the_manifest(
    bundle: Path, side: str, name: str, field: str
) -> None:
    """The digest is right, the content is not: a bundle made by something else."""
    import hashlib

    whole = load_file(bundle / name)
    first = sorted(whole)[0]
    for spoiled in (
        {**whole, first: torch.zeros(3, 5)},
        {k: whole[k] for k in whole if k != first},
    ):
        save_file(spoiled, bundle / name)
        digest = hashlib.sha256((bundle / name).read_bytes()).hexdigest()
        changed_manifest(bundle, **{field: digest})
        with pytest.raises(ConfigError, match="does not fit its manifest"):
            OPENERS[side](bundle)


def test_neither_half_holds_the_language_model(bundle_directory: Path) -> None:
    edge, cloud = load_file(bundle_directory / EDGE), load_file(bundle_directory / CLOUD)
    assert {name.split(".")[0] for name in edge} == {"prefix", "codec"}
    assert {name.split(".")[0] for name in cloud} == {"codec", "link", "norms"}
    for name in (*edge, *cloud):
        assert not any(
            part in name for part in ("language", "lm_head", "projector", "embed_tokens")
        )
    assert not any("project_up" in name for name in edge)  # nor what only the cloud decodes with
    assert not any("project_down" in name or "patch" in name for name in cloud)


def test_a_manifest_survives_json_and_names_itself(bundle_directory: Path) -> None:
    manifest = read_manifest(bundle_directory)
    text = manifest.to_json()
    again = SplitManifest.from_json(text)
    assert again == manifest
    assert again.to_json() == text
    assert again.digest() == manifest.digest()
    shuffled = json.dumps(dict(reversed(json.loads(text).items())), indent=2)
    assert SplitManifest.from_json(shuffled).digest() == manifest.digest()
    assert (bundle_directory / MANIFEST).read_text() == text + "\n"
    assert open_edge_bundle(bundle_directory).codec.spec.digest == manifest.digest()
    assert open_cloud_bundle(bundle_directory).codec.spec.digest == manifest.digest()


def test_exporting_twice_gives_the_same_digest(
    bundle_directory: Path, llava_directory: Path, examples: CutFeatures, tmp_path: Path
) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    manifest = export_bundle(
        checkpoint, calibrate_codec(checkpoint, BUNDLE_PLAN, examples), tmp_path
    )
    assert manifest == read_manifest(bundle_directory)
