"""Edge halves for other cameras: beside the first half, and of no concern to the cloud."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file

from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle, open_modality_prefix
from aligned_vq.codec.bundle_files import BUNDLE_FILES, EDGE, GRAPH, MANIFEST, read_manifest
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.graph.modality_bundle import write_modality
from aligned_vq.graph.writing import write_graph
from aligned_vq.images.depth import RangeSettings
from tests.modalities import ROOM, changed_prefix

DEPTH, DEPTH_GRAPH = "edge-depth.safetensors", "edge-depth.onnx"


@pytest.fixture
def graphed(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy with a graph."""
    folder = Path(shutil.copytree(bundle_directory, tmp_path / "graphed"))
    write_graph(folder)
    return folder


def with_depth(bundle: Path, out: Path, seed: int = 0) -> SplitManifest:
    return write_modality(bundle, changed_prefix(bundle, seed), "depth", ROOM, out)


def test_nothing_that_was_there_changes(graphed: Path, tmp_path: Path) -> None:
    before, out = read_manifest(graphed), tmp_path / "out"
    after = with_depth(graphed, out)
    assert after == read_manifest(out)
    assert after.digest() == before.digest()
    assert SplitManifest.from_json(after.to_json()) == after
    assert "modalities" not in before.to_json()
    for name in set(BUNDLE_FILES) - {MANIFEST}:
        if (graphed / name).exists():
            assert (out / name).read_bytes() == (graphed / name).read_bytes()
    added = {path.name for path in out.iterdir()} - {path.name for path in graphed.iterdir()}
    assert added == {DEPTH, DEPTH_GRAPH}
    assert open_cloud_bundle(out).codec.spec.digest == before.digest()


def test_a_half_has_a_prefix_and_the_codec_of_the_first(
    bundle_directory: Path, tmp_path: Path
) -> None:
    manifest = with_depth(bundle_directory, tmp_path / "out")
    first, depth = (load_file(tmp_path / "out" / name) for name in (EDGE, DEPTH))
    assert {name: (t.shape, t.dtype) for name, t in first.items()} == {
        name: (t.shape, t.dtype) for name, t in depth.items()
    }
    codec = {name for name in first if name.startswith("codec.")}
    assert codec <= {name for name in first if torch.equal(first[name], depth[name])}
    opened = open_modality_prefix(tmp_path / "out", manifest, "depth")
    wanted = changed_prefix(bundle_directory).state_dict()
    for name, tensor in opened.state_dict().items():
        torch.testing.assert_close(tensor, wanted[name], rtol=1e-2, atol=1e-3)  # stored in 16 bits
    assert manifest.edge_half("depth").range == ROOM
    assert not (tmp_path / "out" / DEPTH_GRAPH).exists()


def test_outputs_of_the_halves_differ(bundle_directory: Path, tmp_path: Path) -> None:
    manifest = with_depth(bundle_directory, tmp_path / "out")
    pixels = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 3, 56, 56))).float()
    rgb, depth = (
        open_modality_prefix(tmp_path / "out", manifest, own)(pixels)[0] for own in ("rgb", "depth")
    )
    assert torch.equal(rgb, open_edge_bundle(bundle_directory).prefix(pixels)[0])
    assert (rgb - depth).abs().max() > 1e-3


def test_halves_are_added_and_replaced_in_place(bundle_directory: Path, tmp_path: Path) -> None:
    bundle = Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))
    (bundle / "notes.txt").write_text("mine")
    write_modality(bundle, changed_prefix(bundle), "infrared", RangeSettings(), bundle)
    first = with_depth(bundle, bundle)
    second = with_depth(bundle, bundle, seed=1)
    assert [own.modality for own in second.edge_halves] == ["rgb", "depth", "infrared"]
    assert first.edge_half("infrared") == second.edge_half("infrared")
    assert first.edge_half("depth") != second.edge_half("depth")
    assert (bundle / "notes.txt").read_text() == "mine"
    with pytest.raises(InvalidInput, match=r"rgb, depth, infrared\), got 'bands'"):
        second.edge_half("bands")


def test_graphs_are_written_for_every_half_alike(graphed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    manifest = with_depth(graphed, out)
    graphs = {name: (out / name).read_bytes() for name in (GRAPH, DEPTH_GRAPH)}
    write_graph(out)
    assert read_manifest(out) == manifest
    assert graphs == {name: (out / name).read_bytes() for name in graphs}
    write_graph(out, int8=True)
    again = with_depth(out, tmp_path / "again")
    assert again == read_manifest(out)  # so the new graph has 8 bits, as the others have
    initializers = onnx.load(out / DEPTH_GRAPH, load_external_data=False).graph.initializer
    assert any(own.data_type == onnx.TensorProto.INT8 for own in initializers)


@pytest.mark.parametrize("share", [0.0, 0.5, 0.999])
def test_a_damaged_half_is_refused_by_name(
    bundle_directory: Path, tmp_path: Path, share: float
) -> None:
    manifest = with_depth(bundle_directory, tmp_path / "out")
    path = tmp_path / "out" / DEPTH
    content = bytearray(path.read_bytes())
    content[int(share * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=r"edge-depth\.safetensors: .*damaged"):
        open_modality_prefix(tmp_path / "out", manifest, "depth")
    open_edge_bundle(tmp_path / "out")  # colour does not need it


@pytest.mark.parametrize("modality", ["rgb", "bands", "lidar"])
def test_modalities_that_a_bundle_cannot_have(
    bundle_directory: Path, tmp_path: Path, modality: str
) -> None:
    with pytest.raises(ConfigError, match=modality):
        write_modality(
            bundle_directory, changed_prefix(bundle_directory), modality, ROOM, tmp_path / "out"
        )
    assert not (tmp_path / "out").exists()


def test_prefixes_that_do_not_fit(bundle_directory: Path, tmp_path: Path) -> None:
    prefix = changed_prefix(bundle_directory)
    prefix.embeddings.class_embedding.data[0] = torch.nan
    with pytest.raises(ConfigError, match=r"finite weights.*class_embedding"):
        write_modality(bundle_directory, prefix, "depth", ROOM, tmp_path / "out")
    prefix.embeddings.class_embedding = torch.nn.Parameter(torch.zeros(8))
    with pytest.raises(ConfigError, match=r"class_embedding: .*\[8\]"):
        write_modality(bundle_directory, prefix, "depth", ROOM, tmp_path / "out")
    assert not (tmp_path / "out").exists()


HALF = {"weights_digest": "00", "graph_digest": None, "range": ROOM.to_dict()}


@pytest.mark.parametrize(
    ("modalities", "named"),
    [
        ({"bands": HALF}, "bands"),
        ({"rgb": HALF}, "unless it is rgb"),
        ({"depth": {**HALF, "range": None}}, "with a range unless it is rgb"),
        ({"depth": {**HALF, "range": {"fixed": [4.0, 0.5]}}}, "fixed range"),
        ({"depth": {**HALF, "graph_digest": "00"}}, "all edge halves or of none"),
        ({"depth": {**HALF, "weights_digest": 7}}, "weights_digest"),
        ({"depth": {**HALF, "colour": 7}}, "unknown"),
        (["depth"], "of the wrong type"),
    ],
)
def test_manifests_with_modalities_that_are_wrong(
    bundle_directory: Path, modalities: Any, named: str
) -> None:
    raw = json.loads((bundle_directory / MANIFEST).read_text())
    SplitManifest.from_json(json.dumps({**raw, "modalities": {"depth": HALF}}))
    with pytest.raises(ConfigError, match=named):
        SplitManifest.from_json(json.dumps({**raw, "modalities": modalities}))
