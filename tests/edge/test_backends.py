"""Which backend an edge takes, what it says is missing, and that both keep byte limits alike."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.calibration.codec import CodecPlan, CutFeatures, calibrate_codec, export_bundle
from aligned_vq.codec.bundle import open_cloud_bundle
from aligned_vq.codec.bundle_files import read_manifest, write_manifest
from aligned_vq.errors import ConfigError
from aligned_vq.graph.writing import write_graph
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.types import OperatingPoint, SplitPoint
from edge_client import EdgeClient, EdgeConfig
from edge_client.backends.base import BackendChoice
from edge_client.encoder import EdgeEncoder
from tests.conftest import IMAGE_SIDE

CHOICES: tuple[BackendChoice, ...] = ("torch", "onnx")
PICTURES = [
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (60, 80, 3), np.uint8))
    for seed in range(4)
]


@pytest.fixture(scope="module")
def with_graph(bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("with-graph") / "bundle"
    shutil.copytree(bundle_directory, folder)
    write_graph(folder)
    return folder


def without(monkeypatch: pytest.MonkeyPatch, *libraries: str) -> None:
    for library in libraries:
        monkeypatch.setitem(sys.modules, library, None)


def test_onnx_is_taken_where_it_can_run(
    bundle_directory: Path, with_graph: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert EdgeEncoder(with_graph).backend.name == "onnx"
    assert EdgeEncoder(with_graph, "torch").backend.name == "torch"
    assert EdgeEncoder(with_graph, dtype="bfloat16").backend.name == "torch"
    assert EdgeEncoder(bundle_directory).backend.name == "torch"
    without(monkeypatch, "onnxruntime")
    assert EdgeEncoder(with_graph).backend.name == "torch"


@pytest.mark.parametrize(
    ("graph", "missing", "choice", "words"),
    [
        (False, (), "onnx", ["edge.onnx", "export-onnx"]),
        (True, ("onnxruntime",), "onnx", ["onnxruntime", "aligned-vq[edge]"]),
        (True, ("torch",), "torch", ["torch", "aligned-vq[edge-torch]"]),
        (False, ("torch",), "auto", ["aligned-vq[edge-torch]", "edge.onnx", "export-onnx"]),
        (True, ("torch", "onnxruntime"), "auto", ["aligned-vq[edge-torch]", "aligned-vq[edge]"]),
    ],
)
def test_what_is_missing_is_named(
    bundle_directory: Path,
    with_graph: Path,
    monkeypatch: pytest.MonkeyPatch,
    graph: bool,
    missing: tuple[str, ...],
    choice: BackendChoice,
    words: list[str],
) -> None:
    without(monkeypatch, *missing)
    with pytest.raises(ConfigError) as caught:
        EdgeEncoder(with_graph if graph else bundle_directory, choice)
    assert all(word in str(caught.value) for word in words), caught.value


def test_onnx_refuses_other_precisions_by_name(with_graph: Path) -> None:
    with pytest.raises(ConfigError, match="expects dtype float32, got bfloat16; leave dtype out"):
        EdgeEncoder(with_graph, "onnx", "bfloat16")


def test_settings_reach_the_encoder(with_graph: Path) -> None:
    with EdgeClient("127.0.0.1:1", with_graph, EdgeConfig(backend="torch")) as client:
        assert client.encoder.backend.name == "torch"
    with pytest.raises(ConfigError, match="threads must be"):
        EdgeConfig(threads=-1)


@pytest.mark.parametrize("quality", ["adaptive", "fixed", "first"])
def test_payloads_are_torchs_own(with_graph: Path, quality: str) -> None:
    """Of pictures without ties, that is; `tests/graph` looks at those."""
    ours, theirs = EdgeEncoder(with_graph, "torch"), EdgeEncoder(with_graph, "onnx", threads=1)
    for picture in PICTURES:
        expected = ours.encode(picture, quality=quality)
        got = theirs.encode(picture, quality=quality)
        assert got.payload == expected.payload
        assert list(got.timings.stages_ns) == ["preprocess", "prefix", "compress"]
        open_cloud_bundle(with_graph).codec.decompress(got.payload)


def test_a_byte_limit_is_kept_as_torch_keeps_it(with_graph: Path, tmp_path: Path) -> None:
    """Each picture is encoded again and again, from what was seen of it once."""
    folder = Path(shutil.copytree(with_graph, tmp_path / "bundle"))
    manifest = read_manifest(folder)
    free = EdgeEncoder(folder, "torch").encode(PICTURES[0], coding="fixed").payload
    limit = len(free.body) - 2
    point = replace(manifest.operating_points[0], max_bytes=limit)
    write_manifest(folder, replace(manifest, operating_points=(point,)))
    ours, theirs = EdgeEncoder(folder, "torch"), EdgeEncoder(folder, "onnx")
    got = theirs.encode(PICTURES[0], coding="fixed").payload
    assert got == ours.encode(PICTURES[0], coding="fixed").payload
    assert len(got.body) <= limit < len(free.body)
    assert open_cloud_bundle(folder).codec.unpack(got).stages[1].indices.size > 0
    impossible = replace(point, max_bytes=1)
    write_manifest(folder, replace(manifest, operating_points=(impossible,)))
    for choice in CHOICES:
        with pytest.raises(ConfigError, match="allows 1 bytes"):
            EdgeEncoder(folder, choice).encode(PICTURES[0])


def test_statistics_are_sent(llava_directory: Path, examples: CutFeatures, tmp_path: Path) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    points = (OperatingPoint("all", (0,)),)
    plan = CodecPlan(SplitPoint(1, "ln1"), "statistics", (32,), 8, points=points)
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, examples), tmp_path)
    write_graph(tmp_path)
    cloud = open_cloud_bundle(tmp_path).codec
    ours, theirs = (EdgeEncoder(tmp_path, choice) for choice in CHOICES)
    for picture in PICTURES:
        (features, residual), (other, another) = (
            cloud.decompress(encoder.encode(picture).payload) for encoder in (ours, theirs)
        )
        assert (features == other).all()
        assert (residual - another).abs().max() <= 0.01 * residual.abs().max()


def test_several_threads_may_encode_at_once(with_graph: Path) -> None:
    from concurrent.futures import ThreadPoolExecutor

    encoder = EdgeEncoder(with_graph, "onnx")
    alone = [encoder.encode(picture).payload for picture in PICTURES]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda p: encoder.encode(p).payload, PICTURES * 5))
    assert together == alone * 5
    assert encoder.manifest.processor.output_size == (IMAGE_SIDE, IMAGE_SIDE)
