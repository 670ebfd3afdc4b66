"""The commands as a person types them, against a real cloud process."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from aligned_vq.cli import main
from benchmarks.harness.processes import CloudProcess
from tests import commands


def run(module: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *map(str, arguments)]
    return commands.run(command, timeout=90)


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "photo.jpg"
    pixels = np.random.default_rng(1).integers(0, 256, (70, 90, 3), np.uint8)
    Image.fromarray(pixels).save(path)
    return path


def test_ask_prints_answers_and_figures(
    cloud: CloudProcess, bundle_directory: Path, picture: Path
) -> None:
    to = (f"--target={cloud.target}", f"--bundle={bundle_directory}", "--max_tokens=6")
    plain = run("edge_client.cli", "ask", picture, "What is it?", *to)
    assert plain.returncode == 0, plain.stderr
    assert "B of indices" in plain.stdout
    done = run("edge_client.cli", "ask", picture, "What is it?", "And now?", *to, "--json")
    first, second = (json.loads(line) for line in done.stdout.splitlines())
    assert first["answer"] in plain.stdout
    assert first["payload_bytes"] > 0
    assert second["payload_bytes"] == 0
    assert second["question"] == "And now?"
    assert set(first["edge"]) == {"preprocess", "prefix", "compress"}


def test_compress_writes_a_file_that_inspect_reads(
    bundle_directory: Path, picture: Path, tmp_path: Path
) -> None:
    out = tmp_path / "photo.avq"
    done = run(
        "edge_client.cli", "compress", picture, "-o", out, f"--bundle={bundle_directory}", "--json"
    )
    assert done.returncode == 0, done.stderr
    figures = json.loads(done.stdout)
    assert out.stat().st_size == figures["file_bytes"] == figures["body_bytes"] + 37
    shown = json.loads(run("aligned_vq.cli", "inspect", out, "--json").stdout)
    assert shown["digest"] == figures["digest"]
    assert shown["num_tokens"] == 17
    bundle = json.loads(run("aligned_vq.cli", "inspect", bundle_directory, "--json").stdout)
    assert bundle["manifest_digest"] == shown["manifest_digest"]


def test_check_compares_bundles(
    cloud: CloudProcess, bundle_directory: Path, identity_bundle_directory: Path
) -> None:
    good = run(
        "edge_client.cli", "check", f"--target={cloud.target}", f"--bundle={bundle_directory}"
    )
    assert good.returncode == 0, good.stderr
    assert "serves this bundle" in good.stdout
    other = run(
        *("edge_client.cli", "check", f"--target={cloud.target}"),
        f"--bundle={identity_bundle_directory}",
    )
    assert other.returncode == 1
    assert "install the service" in other.stderr
    assert "Traceback" not in other.stderr


def test_export_writes_a_bundle_from_a_folder_of_pictures(
    llava_directory: Path, tmp_path: Path
) -> None:
    rng = np.random.default_rng(2)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in range(6):
        Image.fromarray(rng.integers(0, 256, (60, 60, 3), np.uint8)).save(folder / f"{number}.png")
    out = tmp_path / "bundle"
    done = run(
        *("aligned_vq.cli", "export", f"--checkpoint={llava_directory}", f"--images={folder}"),
        *("--split=ln2@0", "--codebook_sizes=[16,8]", "--codebook_dim=8", f"--out={out}"),
        "--onnx",
    )
    assert done.returncode == 0, done.stderr
    assert str(out / "edge.onnx") in done.stdout
    shown = json.loads(run("aligned_vq.cli", "inspect", out, "--json").stdout)
    assert shown["split"] == "ln2@0"
    assert shown["quantizer"]["codebook_sizes"] == [16, 8]
    with CloudProcess(out, llava_directory) as cloud:
        asked = run(
            *("edge_client.cli", "ask", folder / "0.png", "What?", f"--target={cloud.target}"),
            *(f"--bundle={out}", "--max_tokens=3", "--backend=onnx"),
        )
    assert asked.returncode == 0, asked.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--images=reference:2", "--split=ln3@0"), "expected a split point"),
        (("--images=reference:2", "--split=ln1@9"), "behind the last block"),
        (("--images=reference:none", "--split=pre"), "reference:COUNT"),
        (("--images=nowhere", "--split=pre"), "expected a readable folder of images"),
        (("--images=reference:2", "--split=ln1@1", "--link=identity"), "only the cut 'pre'"),
        (("--images=reference:1", "--split=ln1@1"), "give more images"),
    ],
)
def test_export_says_what_is_wrong(
    llava_directory: Path,
    tmp_path: Path,
    arguments: tuple[str, ...],
    words: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status = main(
        ["export", f"--checkpoint={llava_directory}", *arguments, f"--out={tmp_path / 'bundle'}"]
    )
    assert status == 1
    assert words in capsys.readouterr().err
