"""The graph chooses what torch chooses, but for ties, at every cut and every operating point."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from functools import reduce
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save_file

from aligned_vq.calibration.codec import CodecPlan, calibrate_codec, export_bundle, features_at
from aligned_vq.data.scenes.exam import exam_images
from aligned_vq.graph.writing import write_graph
from aligned_vq.images.preprocess import preprocess
from aligned_vq.llava.checkpoint import LlavaCheckpoint
from aligned_vq.shipped import BUNDLE
from aligned_vq.split.loading import load_prefix
from aligned_vq.types import LinkKind, OperatingPoint, SplitPoint
from benchmarks.real_size.checkpoint import write_random_checkpoint
from tests.graph.agreement import Agreement, Pair

NOT_ALIKE = 0.001
SCENE = Path(__file__).parents[2] / "examples" / "scene.png"
POINTS = (
    OperatingPoint("adaptive", (0, 1, 2), 0.05),
    OperatingPoint("dear", (0, 1, 2), 0.5),
    OperatingPoint("all", (0, 1, 2)),
    OperatingPoint("some", (1, 2), 0.05),
    OperatingPoint("first", (0,), 0.1),
)


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    """Two libraries with threads of their own only wait for each other here."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def bundle_at(checkpoint_folder: Path, plan: CodecPlan, out: Path, images: int = 24) -> Path:
    checkpoint = LlavaCheckpoint(checkpoint_folder)
    height, width = checkpoint.processor().output_size
    torch.manual_seed(7)
    pixels = [torch.randn(4, 3, height, width) for _ in range(images // 4)]
    examples = features_at(load_prefix(checkpoint, plan.split), pixels)
    export_bundle(checkpoint, calibrate_codec(checkpoint, plan, examples), out)
    write_graph(out)
    return out


def noise(pair: Pair, count: int) -> list[NDArray[np.float32]]:
    height, width = pair.manifest.processor.output_size
    rng = np.random.default_rng(11)
    return [rng.standard_normal((3, height, width)).astype(np.float32) for _ in range(count)]


def assert_alike(pair: Pair, images: list[NDArray[np.float32]]) -> None:
    found = reduce(Agreement.plus, map(pair.agreement, images))
    assert found.indices > 0
    assert found.differing <= NOT_ALIKE * found.indices, found
    assert found.beyond_ties == 0, found


def test_the_shipped_bundle_at_every_point() -> None:
    pair = Pair(BUNDLE)
    pictures = [Image.open(SCENE).convert("RGB")]
    pictures += [own.image for own in list(exam_images(48))[:5]]
    rng = np.random.default_rng(2)
    pictures.append(Image.fromarray(rng.integers(0, 256, (300, 200, 3), np.uint8)))
    pictures.append(Image.new("RGB", (40, 900), (7, 200, 90)))
    assert_alike(pair, [preprocess(own, pair.manifest.processor) for own in pictures])


@pytest.mark.parametrize(
    ("split", "link", "groups"),
    [
        ("pre", "identity", 1),
        ("pre", "learned", 2),
        ("ln1@0", "closed_form", 1),
        ("ln2@0", "statistics", 1),
        ("ln1@1", "statistics", 4),
        ("ln1@2", "learned", 1),
        ("ln2@1", "dropped", 2),
        ("ln2@2", "learned", 1),
    ],
)
def test_small_bundles_at_every_point(
    llava_directory: Path, tmp_path: Path, split: str, link: LinkKind, groups: int
) -> None:
    plan = CodecPlan(SplitPoint.parse(split), link, (32, 64, 16), 8, groups, points=POINTS)
    pair = Pair(bundle_at(llava_directory, plan, tmp_path))
    assert_alike(pair, noise(pair, 6))


@pytest.mark.parametrize(
    ("activation", "dtype"),
    [
        ("gelu", torch.bfloat16),
        ("gelu_pytorch_tanh", torch.float16),
        ("relu", torch.float32),
    ],
)
def test_other_towers(
    llava_directory: Path, tmp_path: Path, activation: str, dtype: torch.dtype
) -> None:
    """Activations, stored precisions, and pictures that are no multiple of the patch."""
    folder = Path(shutil.copytree(llava_directory, tmp_path / "checkpoint"))
    config = json.loads((folder / "config.json").read_text())
    config["vision_config"] |= {"hidden_act": activation, "image_size": 61}
    (folder / "config.json").write_text(json.dumps(config))
    processor = json.loads((folder / "processor_config.json").read_text())
    processor["image_processor"] |= {"crop_size": {"height": 61, "width": 61}}
    (folder / "processor_config.json").write_text(json.dumps(processor))
    tensors = load_file(folder / "model.safetensors")
    stored = {name: tensor.to(dtype) for name, tensor in tensors.items()}
    save_file(stored, folder / "model.safetensors")
    plan = CodecPlan(
        SplitPoint(2, "ln1"), codebook_sizes=(32, 64, 16), codebook_dim=8, points=POINTS
    )
    pair = Pair(bundle_at(folder, plan, tmp_path / "bundle"))
    assert_alike(pair, noise(pair, 6))


def test_real_dimensions(tmp_path: Path) -> None:
    """ViT-L/14-336, random weights, one whole block on the edge."""
    checkpoint = write_random_checkpoint(tmp_path / "checkpoint", blocks=4)
    plan = CodecPlan(SplitPoint(1, "ln1"), codebook_sizes=(512, 256, 256), points=POINTS)
    pair = Pair(bundle_at(checkpoint, plan, tmp_path / "bundle", images=4))
    assert pair.manifest.features.num_tokens == 577
    assert_alike(pair, noise(pair, 2))
