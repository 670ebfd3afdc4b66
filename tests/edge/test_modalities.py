"""Images of other cameras take their own prefix, and colour is encoded as ever."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from aligned_vq.bitstream import from_frame
from aligned_vq.cli import main as library
from aligned_vq.codec.bundle import open_edge_bundle, open_modality_prefix
from aligned_vq.codec.feature_codec import TorchPrefixOutput
from aligned_vq.errors import ConfigError, InvalidInput
from aligned_vq.graph.modality_bundle import write_modality
from aligned_vq.images.depth import RangeSettings, student_pixels
from aligned_vq.images.load import load_pixels
from aligned_vq.images.modality import Pixels
from aligned_vq.images.preprocess import View
from aligned_vq.shipped import BUNDLE
from aligned_vq.types import Payload
from edge_client.backends.base import BackendChoice
from edge_client.cli import main
from edge_client.client import EdgeClient
from edge_client.config import EdgeConfig
from edge_client.encoder import EdgeEncoder
from tests.modalities import ROOM, changed_prefix, depth_png

NOWHERE = "127.0.0.1:1"
BACKENDS: list[BackendChoice] = ["onnx", "torch"]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped bundle with a prefix for depth."""
    out = tmp_path_factory.mktemp("modalities") / "bundle"
    write_modality(BUNDLE, changed_prefix(BUNDLE), "depth", ROOM, out)
    return out


@pytest.fixture
def depth(tmp_path: Path) -> Path:
    return depth_png(tmp_path / "depth.png")


def colour() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (90, 120, 3), np.uint8))


@torch.inference_mode()
def payload_by_torch(bundle: Path, path: Path) -> Payload:
    """The payload of a depth map, computed from the modality's prefix by hand."""
    edge = open_edge_bundle(bundle)
    pixels = student_pixels(load_pixels(path, "depth"), edge.manifest.processor, ROOM)
    prefix = open_modality_prefix(bundle, edge.manifest, "depth")
    features, residual = prefix(torch.from_numpy(pixels)[None])
    return edge.codec.spec.compress(TorchPrefixOutput(edge.codec, features[0], residual[0]))


@pytest.mark.parametrize("backend", BACKENDS)
def test_payloads_of_colour_do_not_change(bundle: Path, backend: BackendChoice) -> None:
    before, after = EdgeEncoder(BUNDLE, backend), EdgeEncoder(bundle, backend)
    assert before.digest == after.digest
    for quality in ("medium", "fixed"):
        payload = before.encode(colour(), quality=quality).payload
        assert after.encode(colour(), quality=quality).payload == payload


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_depth_map_takes_its_own_prefix(
    bundle: Path, depth: Path, backend: BackendChoice
) -> None:
    encoder = EdgeEncoder(bundle, backend)
    pixels = load_pixels(depth, "depth")
    payload = encoder.encode(pixels).payload
    assert payload == payload_by_torch(bundle, depth)
    assert payload.manifest_digest == EdgeEncoder(BUNDLE).digest
    view = encoder.view(pixels)
    assert view.modality == "depth"
    assert encoder.encode(view).payload == payload
    assert encoder.payload_bytes(view)["medium"] == len(payload.body)
    # The same pixels as colour are other indices: the prefix differs, not the image alone.
    assert encoder.encode(View(view.pixels)).payload != payload


@pytest.mark.parametrize("isolated", [False, True])
def test_a_client_opens_files_at_their_depth(bundle: Path, depth: Path, isolated: bool) -> None:
    with EdgeClient(NOWHERE, bundle, EdgeConfig(isolate_images=isolated)) as client:
        expected = payload_by_torch(bundle, depth)
        values = np.asarray(Image.open(depth))
        sources: list[Any] = [
            depth,
            depth.read_bytes(),
            Image.open(depth),
            values.astype(np.uint16),
        ]
        for source in sources:
            assert client.compress(source, modality="depth").payload == expected
        view = client.view(depth, "depth")
        assert client.compress(view).payload == expected  # a view has its modality
        grey = np.full((48, 64, 3), 90, np.uint8)
        grey_payload = client.compress(grey).payload
        assert grey_payload == client.compress(client.view(grey)).payload


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_prefix_is_loaded_for_its_first_image(
    bundle: Path, depth: Path, tmp_path: Path, backend: BackendChoice
) -> None:
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    encoder = EdgeEncoder(copy, backend)
    path = copy / "edge-depth.safetensors"
    whole = path.read_bytes()
    path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    encoder.encode(colour())
    with pytest.raises(ConfigError, match=r"edge-depth\.safetensors: .*damaged"):
        encoder.encode(load_pixels(depth, "depth"))
    path.write_bytes(whole)
    encoder.encode(load_pixels(depth, "depth"))  # once it is copied again
    path.unlink()
    encoder.encode(load_pixels(depth, "depth"))  # from memory


def encoded(image: Image.Image, form: str = "PNG") -> bytes:
    written = io.BytesIO()
    image.save(written, form)
    return written.getvalue()


def deep(values: Any) -> bytes:
    return encoded(Image.fromarray(np.array(values, np.uint16)))


WRONG = {
    "lacking": (deep([[500, 900]]), "infrared", r"this bundle \(rgb, depth\), got 'infrared'"),
    "unknown": (deep([[500, 900]]), "radar", r"this bundle \(rgb, depth\), got 'radar'"),
    "colour as depth": (encoded(colour()), "depth", "got uint8: .* modality that they are of"),
    "depth as colour": (deep([[500, 900]]), "rgb", "looks like depth: name its modality"),
    "nothing measured": (deep([[0, 0]]), "depth", "without any"),
    "metres as integers": (deep([[1, 2]]), "depth", "looks like metres"),
}


@pytest.mark.parametrize("isolated", [False, True])
def test_images_that_cannot_be_used(bundle: Path, isolated: bool) -> None:
    with EdgeClient(NOWHERE, bundle, EdgeConfig(isolate_images=isolated)) as client:
        for image, modality, words in WRONG.values():
            options: Any = {"modality": modality}
            with pytest.raises(InvalidInput, match=words):
                client.ask(image, "How many?", **options)
            with pytest.raises(InvalidInput, match=words):
                client.compress(image, **options)


def test_a_constant_map_is_refused_where_the_range_is_that_of_the_image(tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    write_modality(BUNDLE, changed_prefix(BUNDLE), "depth", RangeSettings(), bundle)
    encoder = EdgeEncoder(bundle)
    with pytest.raises(InvalidInput, match="constant map"):
        encoder.encode(Pixels(np.full((8, 8, 1), 700, np.uint16), "depth"))


def test_arrays_and_pillow_images_of_the_wrong_modality(bundle: Path) -> None:
    with EdgeClient(NOWHERE, bundle) as client:
        for source in (
            np.full((8, 8), 700, np.uint16),
            np.full((8, 8, 1), 0.7, np.float32),
            Image.fromarray(np.full((8, 8), 700, np.uint16)),
        ):
            with pytest.raises(InvalidInput, match="looks like depth"):
                client.compress(source)
        for source in (colour(), np.asarray(colour())):
            with pytest.raises(InvalidInput, match=r"expected (depth pixels|pixels .* of depth)"):
                client.compress(source, modality="depth")
        with pytest.raises(InvalidInput, match="a view of depth, got one of rgb"):
            client.compress(client.view(colour()), modality="depth")
    with EdgeClient(NOWHERE, BUNDLE) as client:  # which takes no depth: 16 bits may be any image
        client.compress(np.full((8, 8), 700, np.uint16))


def test_commands(
    bundle: Path, depth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "depth.avq"
    compress = ["compress", str(depth), f"--bundle={bundle}", "-o", str(out)]
    assert main([*compress, "--modality=depth"]) == 0
    assert from_frame(out.read_bytes()) == payload_by_torch(bundle, depth)
    capsys.readouterr()
    for command in (compress, ["ask", str(depth), "How many?", f"--bundle={bundle}"]):
        assert main(command) == 1
        error = capsys.readouterr().err
        assert error.startswith("edge-client: expected colour, or grey of 8 bits")
        assert error.count("\n") == 1
    assert main([*compress, "--modality=infrared"]) == 1
    assert "(rgb, depth), got 'infrared'" in capsys.readouterr().err
    assert library(["inspect", str(bundle), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)["modalities"]
    assert shown["depth"]["range"] == ROOM.to_dict()


def test_a_video_of_depth_needs_a_fixed_range(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    write_modality(BUNDLE, changed_prefix(BUNDLE), "depth", RangeSettings(), bundle)
    options = ["--source=camera", "--ask=What?", f"--bundle={bundle}", "--modality=depth"]
    assert main(["watch", *options]) == 1
    assert "expected a bundle with a fixed range of depth" in capsys.readouterr().err


def test_a_classifier_of_a_video_needs_one_too(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    write_modality(BUNDLE, changed_prefix(BUNDLE), "depth", ROOM, bundle)
    options = ["--source=camera", "--ask=What?", f"--bundle={bundle}", "--modality=depth"]
    assert main(["watch", *options, "--labels=kitchen,office"]) == 1
    assert "a classifier bundle with a fixed range of depth" in capsys.readouterr().err
