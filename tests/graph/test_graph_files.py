"""`edge.onnx` as a part of a bundle: verified, refused by name, and nobody else's business."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import numpy_helper
from PIL import Image

from aligned_vq.calibration.codec import CutFeatures, calibrate_codec, export_bundle
from aligned_vq.cli import main
from aligned_vq.codec.bundle import open_cloud_bundle, open_edge_bundle
from aligned_vq.codec.bundle_files import EDGE, GRAPH, MANIFEST, read_manifest
from aligned_vq.codec.manifest import SplitManifest
from aligned_vq.errors import ConfigError
from aligned_vq.files.staging import NotWritten
from aligned_vq.graph import terms
from aligned_vq.graph.writing import write_graph
from aligned_vq.images.preprocess import preprocess
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE
from edge_client.encoder import EdgeEncoder
from tests.conftest import BUNDLE_PLAN, IMAGE_SIDE
from tests.disk import files_up_to

PICTURE = Image.fromarray(
    np.random.default_rng(4).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE + 20, 3), np.uint8)
)


@pytest.fixture
def bundle(bundle_directory: Path, tmp_path: Path) -> Path:
    """A copy with a graph, that a test may spoil."""
    folder = Path(shutil.copytree(bundle_directory, tmp_path / "bundle"))
    write_graph(folder)
    return folder


def assert_refused(folder: Path, *named: str) -> None:
    with pytest.raises(ConfigError) as caught:
        EdgeEncoder(folder, "onnx")
    assert all(name in str(caught.value) for name in named), caught.value
    assert ";" in str(caught.value)


def test_a_graph_changes_neither_the_digest_nor_what_others_read(
    bundle_directory: Path, bundle: Path
) -> None:
    before, after = read_manifest(bundle_directory), read_manifest(bundle)
    assert before.edge_graph_digest is None
    assert "edge_graph" not in before.to_json()
    assert after.edge_graph_digest is not None
    assert after.digest() == before.digest()
    assert SplitManifest.from_json(after.to_json()) == after
    for name in ("edge.safetensors", "cloud.safetensors", "entropy.safetensors"):
        assert (bundle / name).read_bytes() == (bundle_directory / name).read_bytes()
    (bundle / GRAPH).unlink()
    open_cloud_bundle(bundle)
    open_edge_bundle(bundle)


def test_the_shipped_bundle_is_what_it_was_and_its_graph_is_written_by_this_code(
    tmp_path: Path,
) -> None:
    manifest = read_manifest(BUNDLE)
    assert manifest.digest().hex() == "222d94b2019589147470622a7cfc0a0e"
    again = Path(shutil.copytree(BUNDLE, tmp_path / "bundle"))
    write_graph(again)
    assert (again / GRAPH).read_bytes() == (BUNDLE / GRAPH).read_bytes()
    assert (again / MANIFEST).read_bytes() == (BUNDLE / MANIFEST).read_bytes()
    assert (BUNDLE / GRAPH).stat().st_size < 50_000


@pytest.mark.parametrize("share", [0.0, 0.3, 0.999])
@pytest.mark.parametrize("name", [GRAPH, EDGE])
def test_one_changed_byte_is_noticed(bundle: Path, name: str, share: float) -> None:
    content = bytearray((bundle / name).read_bytes())
    content[int(share * len(content))] ^= 1
    (bundle / name).write_bytes(content)
    assert_refused(bundle, str(bundle / name), "damaged")


def test_a_missing_graph_is_named(bundle: Path) -> None:
    (bundle / GRAPH).unlink()
    assert_refused(bundle, str(bundle / GRAPH), "No such file")


def test_a_graph_of_another_bundle_is_refused(
    bundle: Path, llava_directory: Path, examples: CutFeatures, tmp_path: Path
) -> None:
    """Of the same geometry even, so that both graphs are nodes and offsets of the same kind."""
    checkpoint = LlavaCheckpoint(llava_directory)
    other = tmp_path / "other"
    export_bundle(checkpoint, calibrate_codec(checkpoint, BUNDLE_PLAN, examples, seed=9), other)
    write_graph(other)
    shutil.copy(other / GRAPH, bundle / GRAPH)
    assert_refused(bundle, str(bundle / GRAPH), "another bundle")


def test_what_onnx_runtime_cannot_run_is_named(bundle: Path) -> None:
    """The digest is right, the content is not: made by something else, or for a later release."""
    model = onnx.load(bundle / GRAPH, load_external_data=False)
    model.opset_import[0].version = 999
    (bundle / GRAPH).write_bytes(model.SerializeToString())
    manifest = json.loads((bundle / MANIFEST).read_text())
    digest = hashlib.sha256((bundle / GRAPH).read_bytes()).hexdigest()
    (bundle / MANIFEST).write_text(json.dumps({**manifest, "edge_graph_digest": digest}))
    assert_refused(bundle, str(bundle / GRAPH), onnxruntime.__version__, "torch")


def test_raw_features_are_refused_by_name(identity_bundle_directory: Path) -> None:
    with pytest.raises(ConfigError, match="identity quantizer, which sends raw features"):
        write_graph(identity_bundle_directory)
    assert not (identity_bundle_directory / GRAPH).exists()


def test_without_the_package_onnx_it_says_what_to_install(
    bundle_directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [own for own in sys.modules if own.startswith("aligned_vq.graph.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "onnx", None)
    assert main(["export-onnx", str(bundle_directory)]) == 1
    assert "aligned-vq[train]" in capsys.readouterr().err


def test_a_bundle_written_anew_has_no_graph_of_the_old_one(
    bundle: Path, llava_directory: Path, examples: CutFeatures
) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    export_bundle(checkpoint, calibrate_codec(checkpoint, BUNDLE_PLAN, examples, seed=9), bundle)
    assert read_manifest(bundle).edge_graph_digest is None
    assert not (bundle / GRAPH).exists()


def test_one_run_goes_from_pixels_to_indices(bundle: Path) -> None:
    """Any ONNX Runtime reads the files as they lie there, and the graph ends in indices."""
    session = onnxruntime.InferenceSession(bundle / GRAPH)
    encoder = EdgeEncoder(bundle, "onnx")
    payload = encoder.encode(PICTURE, quality="fixed", coding="fixed").payload
    found = session.run(
        [terms.indices_name(0), terms.indices_name(1)],
        {
            terms.PIXELS: preprocess(PICTURE, encoder.manifest.processor)[None],
            terms.KNOWN_LATENTS: np.zeros((0, 17, 16), np.float32),
            terms.COVER: np.full(2, terms.EVERYTHING, np.uint8),
            terms.RATE_WEIGHT: np.array(0, np.float32),
        },
    )
    unpacked = open_cloud_bundle(bundle).codec.unpack(payload)
    for indices, stage in zip(found, unpacked.stages, strict=True):
        assert (indices == stage.indices).all()


def test_weights_of_8_bits_are_close(bundle: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = EdgeEncoder(bundle, "onnx").encode(PICTURE, quality="fixed")
    assert main(["export-onnx", str(bundle), "--int8"]) == 0
    assert str(bundle / GRAPH) in capsys.readouterr().out
    rounded = EdgeEncoder(bundle, "onnx").encode(PICTURE, quality="fixed")
    unpack = open_cloud_bundle(bundle).codec.unpack
    pairs = zip(unpack(exact.payload).stages, unpack(rounded.payload).stages, strict=True)
    first, _ = ((own.indices == other.indices).mean() for own, other in pairs)
    assert first > 0.5
    initializers = onnx.load(bundle / GRAPH, load_external_data=False).graph.initializer
    kept = [own for own in initializers if own.data_type == onnx.TensorProto.INT8]
    assert len(kept) == 6  # query, key, value, output and the perceptron's two
    # Two products with an unsigned byte fit 16 bits, in which processors without VNNI add them.
    assert {int(abs(numpy_helper.to_array(own).astype(int)).max()) for own in kept} == {64}


def test_a_graph_leaves_all_else_as_it_was(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (bundle / "notes.txt").write_text("mine")
    (bundle / "deep").mkdir()
    (bundle / "deep" / "more.txt").write_text("too")
    before = {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()}
    with files_up_to(3000), pytest.raises(NotWritten, match="File too large"):
        write_graph(bundle, int8=True)
    assert {path: path.read_bytes() for path in bundle.rglob("*") if path.is_file()} == before
    write_graph(bundle, int8=True)
    changed = {path.name for path, content in before.items() if path.read_bytes() != content}
    assert changed == {GRAPH, MANIFEST}
    assert [path.name for path in bundle.parent.iterdir()] == ["bundle"]
    monkeypatch.chdir(bundle)
    with pytest.raises(ConfigError, match="the working directory"):
        write_graph(Path())


def test_a_bundle_and_its_graph_come_together_or_not_at_all(
    bundle: Path, llava_directory: Path, examples: CutFeatures
) -> None:
    checkpoint = LlavaCheckpoint(llava_directory)
    codec = calibrate_codec(checkpoint, BUNDLE_PLAN, examples, seed=9)
    before = read_manifest(bundle)

    def fail(folder: Path) -> None:
        write_graph(folder)
        raise ValueError("a bug")

    with pytest.raises(ValueError, match="a bug"):
        export_bundle(checkpoint, codec, bundle, fail)
    assert read_manifest(bundle) == before
    export_bundle(checkpoint, codec, bundle, write_graph)
    assert read_manifest(bundle).edge_graph_digest not in (None, before.edge_graph_digest)
    assert EdgeEncoder(bundle, "onnx").encode(PICTURE).payload.manifest_digest != before.digest()
