"""`edge-client classify` as a process that may open no connection."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests import commands
from tests.classifier.bundles import plain, write_bundle

NO_NETWORK = """
import os, socket, sys

def deny(event, arguments):
    family = arguments[1] if event == "socket.__new__" else None
    if event in ("socket.getaddrinfo", "socket.connect", "socket.bind", "socket.sendto") or (
        family in (socket.AF_INET, socket.AF_INET6)
    ):
        open(os.environ["NETWORK_LOG"], "a").write(event)
        raise OSError("the network is not to be used")

sys.addaudithook(deny)
"""
"""Of Python's sockets; those between a process and its children have no address."""


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("classifier") / "bundle")


@pytest.fixture
def red(tmp_path: Path) -> Path:
    plain((255, 0, 0)).save(tmp_path / "red.png")
    return tmp_path / "red.png"


def classify(
    folder: Path, image: Path, *options: str, bundle: Path
) -> subprocess.CompletedProcess[str]:
    """Run the command without a network; it may not even have tried to use it."""
    (folder / "sitecustomize.py").write_text(NO_NETWORK)
    log = folder / "network.log"
    paths = os.pathsep.join([str(folder), *filter(None, sys.path)])
    done = commands.run(
        [
            *(sys.executable, "-m", "edge_client.cli", "classify", str(image)),
            *(f"--bundle={bundle}", *options),
        ],
        env={**os.environ, "PYTHONPATH": paths, "NETWORK_LOG": str(log)},
        timeout=60,
    )
    assert not log.exists(), log.read_text()
    return done


def test_labels_with_probabilities(tmp_path: Path, red: Path, bundle: Path) -> None:
    done = classify(tmp_path, red, "--labels=blue wall, red wall,yellow wall", bundle=bundle)
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line.rsplit(" ", 1) for line in done.stdout.splitlines()]
    assert [label for label, _ in lines] == ["red wall", "yellow wall", "blue wall"]
    assert float(lines[0][1]) > 0.9
    assert all(len(number) == 4 for _, number in lines)


def test_the_hook_sees_a_connection(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_NETWORK)
    code = "import socket; socket.create_connection(('127.0.0.1', 9))"
    env = {**os.environ, "PYTHONPATH": str(tmp_path), "NETWORK_LOG": str(tmp_path / "log")}
    done = commands.run([sys.executable, "-c", code], env=env, timeout=60)
    assert "the network is not to be used" in done.stderr
    assert (tmp_path / "log").read_text()


def test_as_json_with_the_most_probable(tmp_path: Path, red: Path, bundle: Path) -> None:
    done = classify(tmp_path, red, "--json", "--top=1", bundle=bundle)
    found = json.loads(done.stdout)
    assert found["modality"] == "rgb"
    assert found["model_ms"] > 0
    ((label, probability),) = [own.values() for own in found["labels"]]
    assert label == "red"
    assert 0.9 < probability < 1


def test_a_depth_image_and_a_label_set(tmp_path: Path, bundle: Path) -> None:
    path = tmp_path / "depth.png"
    Image.fromarray(np.full((20, 30), 3900, np.uint16)).save(path)
    done = classify(tmp_path, path, "--labels=greys", "--modality=depth", bundle=bundle)
    assert done.stdout.splitlines()[0].startswith("black ")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--labels=red,,blue"], "expected labels with text"),
        (["--labels=red,red"], "would share one probability"),
        (["--modality=infrared"], "got 'infrared'"),
        (["--top=-1"], "expected top and threads of 0 or more"),
        (["--bundle=nowhere"], "expected a classifier bundle with nowhere/classifier.json"),
    ],
)
def test_errors_are_one_line(
    tmp_path: Path, red: Path, bundle: Path, options: list[str], words: str
) -> None:
    done = classify(tmp_path, red, *options, bundle=bundle)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith("edge-client: ")
    assert words in line
    assert done.stdout == ""


def test_a_file_that_is_no_image(tmp_path: Path, bundle: Path) -> None:
    (tmp_path / "note.txt").write_text("no image")
    done = classify(tmp_path, tmp_path / "note.txt", bundle=bundle)
    assert (done.returncode, len(done.stderr.splitlines())) == (1, 1)


def test_a_label_that_the_terminal_cannot_show(
    bundle: Path, red: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    done = classify(tmp_path, red, "--labels=caf\xe9,red", bundle=bundle)
    assert (done.returncode, done.stderr) == (0, "")
    assert "caf\\xe9 " in done.stdout
