"""Several bundles in one service: an old and a new codec, and another cut of the same tower."""

from __future__ import annotations

import json
import urllib.error
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from aligned_vq.calibration.codec import CodecPlan, calibrate_codec, export_bundle, features_at
from aligned_vq.codec.bundle_files import read_manifest
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import SplitPoint
from benchmarks.harness.processes import CloudProcess
from cloud_server.config import CloudConfig
from cloud_server.model import load_cloud_model
from edge_client import EdgeClient, ManifestMismatch
from tests.conftest import IMAGE_SIDE
from tests.e2e.operations.test_operators import fetched
from tests.e2e.raw import GOOD_QUESTION, RawClient, Refusal, opening, parts, payload_of, picture


@pytest.fixture(scope="module")
def later_cut(llava_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the same checkpoint, cut one block later."""
    checkpoint = LlavaCheckpoint(llava_directory)
    split = SplitPoint(2, "ln2")
    torch.manual_seed(6)
    pictures = [torch.randn(8, 3, IMAGE_SIDE, IMAGE_SIDE) for _ in range(5)]
    found = features_at(load_prefix(checkpoint, split), pictures)
    plan = CodecPlan(split, codebook_sizes=(32,), codebook_dim=16)
    folder = tmp_path_factory.mktemp("later-cut")
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, found), folder)
    return folder


@pytest.fixture(scope="module")
def bundles(bundle_directory: Path, later_cut: Path, identity_bundle_directory: Path) -> list[Path]:
    return [bundle_directory, later_cut, identity_bundle_directory]


@pytest.fixture(scope="module")
def several(llava_directory: Path, bundles: list[Path]) -> Iterator[CloudProcess]:
    more = json.dumps([str(path) for path in bundles[1:]])
    options = (f"--more_bundles={more}", "--http_port=0")
    with CloudProcess(bundles[0], llava_directory, *options) as process:
        yield process


@pytest.fixture(scope="module")
def later_cloud(llava_directory: Path, later_cut: Path) -> Iterator[CloudProcess]:
    with CloudProcess(later_cut, llava_directory) as process:
        yield process


def test_every_bundle_is_answered_as_by_a_service_of_its_own(
    several: CloudProcess,
    cloud: CloudProcess,
    later_cloud: CloudProcess,
    identity_cloud: CloudProcess,
    bundles: list[Path],
) -> None:
    for bundle, alone in zip(bundles, (cloud, later_cloud, identity_cloud), strict=True):
        with EdgeClient(alone.target, bundle) as own:
            wanted = own.ask(picture(), GOOD_QUESTION, max_tokens=8)
        with EdgeClient(several.target, bundle) as client:
            info = client.check()
            found = client.ask(picture(), GOOD_QUESTION, max_tokens=8)
        assert info.manifest_json == read_manifest(bundle).to_json()
        assert info.served_digests == tuple(read_manifest(path).digest() for path in bundles)
        assert found.details.token_ids == wanted.details.token_ids


def test_an_image_of_one_bundle_is_not_one_of_another(
    several: CloudProcess, bundles: list[Path]
) -> None:
    payload, digest = payload_of(bundles[0]), read_manifest(bundles[1]).digest()
    with RawClient(several.target) as raw:
        raw.ask([opening(payload.manifest_digest), *parts(payload)])
        with pytest.raises(Refusal) as caught:
            raw.ask([opening(digest), *parts(payload)])
    assert caught.value.name == "CorruptPayload"


def test_an_unknown_bundle_is_told_the_known_ones(
    several: CloudProcess, bundles: list[Path]
) -> None:
    known = [read_manifest(path).digest() for path in bundles]
    with RawClient(several.target) as raw, pytest.raises(Refusal) as caught:
        raw.ask([opening(bytes(16))])
    assert caught.value.name == "ManifestMismatch"
    assert all(digest.hex() in caught.value.words for digest in known)
    assert json.loads(fetched(f"{several.http}/v1/manifests")) == [own.hex() for own in known]
    second = fetched(f"{several.http}/v1/manifest?digest={known[1].hex()}")
    assert second == read_manifest(bundles[1]).to_json()
    for unknown in ("00" * 16, "no digest"):
        with pytest.raises(urllib.error.HTTPError, match="404"):
            fetched(f"{several.http}/v1/manifest?digest={unknown.replace(' ', '%20')}")


def test_cuts_of_one_tower_share_its_weights(bundles: list[Path], llava_directory: Path) -> None:
    more = (bundles[1], bundles[2])
    config = CloudConfig(bundles[0], str(llava_directory), more_bundles=more, device="cpu")
    earlier, later, _ = (cut.suffix.state_dict() for cut in load_cloud_model(config).cuts.values())
    assert set(later) < set(earlier)
    assert all(tensor.data_ptr() == earlier[name].data_ptr() for name, tensor in later.items())


def test_a_client_of_an_unknown_bundle_is_told(
    cloud: CloudProcess, bundle_directory: Path, later_cut: Path
) -> None:
    with (
        EdgeClient(cloud.target, later_cut) as client,
        pytest.raises(ManifestMismatch, match=read_manifest(bundle_directory).digest().hex()),
    ):
        client.check()
