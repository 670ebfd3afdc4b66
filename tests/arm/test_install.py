"""Everything that a device installs has wheels for Linux on aarch64."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.arm.emulated import download


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
@pytest.mark.parametrize("extras", ["edge", "gateway", "watch"])
def test_every_extra_of_a_device_has_wheels(extras: str, python: str, tmp_path: Path) -> None:
    done = download(extras, python, tmp_path)
    assert done.returncode == 0, done.stderr
    names = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert {"onnxruntime", "grpcio", "numpy", "safetensors", "pillow"} <= names
    assert "constriction" not in names
