"""An edge process in which neither torch nor what trains or exports can be imported."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.graph.writing import write_graph
from benchmarks.harness.processes import CloudProcess
from edge_client import EdgeClient, EdgeConfig
from tests import commands
from tests.conftest import IMAGE_SIDE

WITHOUT = """
import sys

sys.modules.update(dict.fromkeys({absent!r}))  # importing one of them raises
from edge_client.cli import main

sys.exit(main(sys.argv[1:]))
"""
ABSENT = ("torch", "transformers", "onnx", "faiss", "accelerate", "peft")


@pytest.fixture(scope="module")
def bundle(bundle_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """That of the cloud, and a graph."""
    folder = tmp_path_factory.mktemp("onnx") / "bundle"
    shutil.copytree(bundle_directory, folder)
    write_graph(folder)
    return folder


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    pixels = np.random.default_rng(5).integers(0, 256, (IMAGE_SIDE, IMAGE_SIDE, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def edge(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", WITHOUT.format(absent=ABSENT)]
    return commands.run([*command, *map(str, arguments)], timeout=90)


@pytest.mark.parametrize("quality", ["adaptive", "fixed"])
def test_it_asks_a_cloud_that_knows_no_graph(
    cloud: CloudProcess, bundle: Path, picture: Path, quality: str
) -> None:
    to = (f"--target={cloud.target}", f"--bundle={bundle}", f"--quality={quality}")
    done = edge("ask", picture, "What is it?", "And now?", *to, "--max_tokens=6", "--json")
    assert done.returncode == 0, done.stderr
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["payload_bytes"] > 0
    assert second["payload_bytes"] == 0
    with EdgeClient(cloud.target, bundle, EdgeConfig(backend="torch")) as client:
        expected = client.ask(picture, "What is it?", quality=quality, max_tokens=6)
    assert first["answer"] == expected


def test_it_checks_and_compresses(cloud: CloudProcess, bundle: Path, picture: Path) -> None:
    out = picture.with_suffix(".avq")
    for arguments in (("check",), ("compress", picture, "-o", out)):
        done = edge(*arguments, f"--target={cloud.target}", f"--bundle={bundle}", "--backend=onnx")
        assert done.returncode == 0, done.stderr
    assert out.stat().st_size > 37


def test_without_a_graph_it_says_what_to_do(bundle_directory: Path, picture: Path) -> None:
    done = edge(
        "compress", picture, "-o", picture.with_suffix(".x"), f"--bundle={bundle_directory}"
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "export-onnx" in done.stderr
    assert "edge-torch" in done.stderr
