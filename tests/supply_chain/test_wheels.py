"""What a device installs leaves out the reference model's cloud half, which installs beside it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path
from zipfile import ZipFile

import pytest

import aligned_vq

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "aligned_vq" / "reference"
HEAVY = {
    f"aligned_vq/reference/{path.relative_to(REFERENCE)}"
    for path in (
        *(REFERENCE / "checkpoint").iterdir(),
        *(REFERENCE / "dual_encoder" / "checkpoint").iterdir(),
        REFERENCE / "bundle" / "cloud.safetensors",
    )
}


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, set[str]]:
    """Names of the files in each wheel, by distribution."""
    folder = tmp_path_factory.mktemp("wheels")
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir")
    command = (sys.executable, "-m", "pip", "wheel", *options, str(folder))
    subprocess.run((*command, str(ROOT), str(REFERENCE)), check=True, capture_output=True)
    return {path.name.split("-")[0]: set(ZipFile(path).namelist()) for path in folder.iterdir()}


def test_a_device_installs_the_edge_half_alone(wheels: dict[str, set[str]]) -> None:
    installed = wheels["aligned_vq"]
    assert not installed & HEAVY
    assert "aligned_vq/reference/bundle/edge.onnx" in installed
    assert "edge_client/gateway/page/index.html" in installed


def test_the_other_distribution_has_all_the_rest(wheels: dict[str, set[str]]) -> None:
    added = {name for name in wheels["aligned_vq_reference"] if ".dist-info/" not in name}
    assert added == HEAVY


def test_both_have_one_version() -> None:
    project = tomllib.loads((REFERENCE / "pyproject.toml").read_text())["project"]
    assert project["version"] == aligned_vq.__version__
