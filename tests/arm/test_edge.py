"""The edge on an emulated ARM: the bytes of this machine, and its answers."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from PIL import Image

from aligned_vq.data.scenes.scene import render, sample_scene, scene_rng
from aligned_vq.shipped import BUNDLE, CHECKPOINT
from benchmarks.attacks.peers.gateway_probes import chat_body
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from edge_client import EdgeClient
from tests.arm.emulated import ROOT, EmulatedDevice
from tests.watch.process import video

SCENES = 6
MOST_DIFFERENT = 1
"""Of 24 payloads: another processor's sums may move a feature over the border between entries."""
QUESTION = "What colour is the largest object?"
MODEL = "reference"
SCENE = ROOT / "examples" / "scene.png"


@pytest.fixture(scope="module")
def cloud() -> Iterator[CloudProcess]:
    with CloudProcess(BUNDLE, CHECKPOINT) as process:
        yield process


@pytest.fixture(scope="module")
def scenes(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("scenes")
    paths = [folder / f"{number}.png" for number in range(SCENES)]
    for number, path in enumerate(paths):
        Image.fromarray(render(sample_scene(scene_rng("test", 40_000 + number))).pixels).save(path)
    return paths


@pytest.fixture(scope="module")
def answer(cloud: CloudProcess) -> str:
    """What this machine's client gets."""
    with EdgeClient(cloud.target, BUNDLE) as client:
        return str(client.ask(SCENE, QUESTION, max_tokens=8))


def test_payloads_are_those_of_this_machine(device: EmulatedDevice, scenes: list[Path]) -> None:
    arguments = ("tests.arm.payloads", str(BUNDLE), *map(str, scenes))
    there = json.loads(device.run(*arguments))
    command = [sys.executable, "-m", *arguments]
    here = json.loads(subprocess.run(command, check=True, capture_output=True, cwd=ROOT).stdout)
    assert there["machine"] == "aarch64" != here["machine"]
    assert there["payloads"].keys() == here["payloads"].keys()
    different = [name for name, body in here["payloads"].items() if there["payloads"][name] != body]
    assert len(different) <= MOST_DIFFERENT, different


def options(cloud: CloudProcess) -> tuple[str, ...]:
    """Of a client that has time."""
    patience = ("--connect_seconds=60", "--first_token_seconds=120", "--total_seconds=240")
    return (f"--target={cloud.target}", f"--bundle={BUNDLE}", "--max_tokens=8", *patience)


def test_it_asks(device: EmulatedDevice, cloud: CloudProcess, answer: str) -> None:
    words = device.run(
        *("edge_client.cli", "ask", str(SCENE), QUESTION, "--json", "--image_seconds=60"),
        *options(cloud),
    )
    assert json.loads(words)["answer"] == answer


def test_its_gateway_answers(device: EmulatedDevice, cloud: CloudProcess, answer: str) -> None:
    options = (f"--model_name={MODEL}", "--image_seconds=60")
    with GatewayProcess(cloud.target, BUNDLE, *options).with_interpreter(device.python) as gateway:
        said = httpx2.post(
            f"{gateway.url}/v1/chat/completions",
            content=chat_body(MODEL, QUESTION, SCENE.read_bytes()),
            headers={"Content-Type": "application/json"},
            timeout=300,
        )
    assert said.status_code == 200, said.text
    assert said.json()["choices"][0]["message"]["content"] == answer


def test_it_watches_a_video(device: EmulatedDevice, cloud: CloudProcess, tmp_path: Path) -> None:
    path = tmp_path / "camera.mp4"
    video(path, [1, 2, 3])
    lines = device.run(
        *("edge_client.cli", "watch", f"--source={path}", f"--ask={QUESTION}"), *options(cloud)
    ).splitlines()
    assert lines
    for line in map(json.loads, lines):
        assert line["answer"], line
