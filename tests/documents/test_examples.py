"""Every example runs as it is shown, against the reference model."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

from aligned_vq.data.scenes.cameras import FARTHEST_M, NEAREST_M
from aligned_vq.edgevl.config import StudentRunConfig
from aligned_vq.files.config_file import config_of, read_settings
from aligned_vq.modality.config import ModalityRunConfig
from aligned_vq.training.config_file import read_config
from benchmarks.harness.processes import CloudProcess, GatewayProcess
from tests import commands
from tests.documents.reading import ROOT, blocks

EXAMPLES = ROOT / "examples"
ENVIRONMENT = os.environ | {
    "PYTHONPATH": str(ROOT),
    "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
}


def output_of(*command: str) -> str:
    done = commands.run(command, timeout=100, env=ENVIRONMENT)
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(script: str, *options: str) -> list[str]:
    return output_of(sys.executable, f"examples/{script}", *options).splitlines()


@pytest.mark.usefixtures("checkout")
def test_ask(reference_cloud: CloudProcess) -> None:
    answer, sent, times = run("ask.py", "--target", reference_cloud.target)
    assert answer.startswith("from left to right: a large cyan cross")
    assert re.fullmatch(r"\d+ B of indices in \d+ B of messages", sent)
    assert "first text after" in times


@pytest.mark.usefixtures("checkout")
def test_a_conversation_sends_its_payload_once(reference_cloud: CloudProcess) -> None:
    lines = run("conversation.py", "--target", reference_cloud.target)
    assert [line.endswith(" [0 B of indices]") for line in lines] == [False, True, True]
    assert " 3 [" in lines[0]
    assert " purple [" in lines[1]


@pytest.mark.usefixtures("checkout")
def test_compress_then_ask(reference_cloud: CloudProcess) -> None:
    sizes, answer = run("compress_then_ask.py", "--target", reference_cloud.target)
    assert answer == "purple"
    assert int(sizes.split()[0]) > int(re.findall(r"(\d+) B of payload file", sizes)[0])
    assert Path("scene.avq").is_file()


@pytest.mark.usefixtures("checkout")
def test_several_clouds_answer_where_one_of_them_is_away(reference_cloud: CloudProcess) -> None:
    lines = run("several_clouds.py", "--targets", f"127.0.0.1:1,{reference_cloud.target}")
    assert len(lines) == 3
    assert all(line.endswith(f"[{reference_cloud.target}]") for line in lines)


@pytest.mark.usefixtures("checkout")
def test_openais_client(reference_gateway: GatewayProcess) -> None:
    (answer,) = run("openai_client.py", "--url", f"{reference_gateway.url}/v1")
    assert answer.startswith("from left to right: a large cyan cross")


def test_watch(reference_cloud: CloudProcess, checkout: Path) -> None:
    (checkout / "images").mkdir()
    shutil.copy(EXAMPLES / "scene.png", checkout / "images")
    options = ("--once", "--target", reference_cloud.target)
    script = ("sh", "examples/watch.sh", "images/", "What colour is the star?", *options)
    (line,) = output_of(*script).splitlines()
    assert json.loads(line)["answer"] == "purple"


def test_the_small_codec_is_a_configuration() -> None:
    file = EXAMPLES / "small-codec.yaml"
    (shown,) = blocks(ROOT / "docs" / "training.md", "yaml")
    assert file.read_text().endswith(shown)
    config = read_config(file)
    assert config.task.steps
    assert set(config.codec.points) == {"medium", "low"}


def test_the_student_is_a_configuration() -> None:
    file = EXAMPLES / "student.yaml"
    settings = read_settings(file, "a student's run")
    config = config_of(StudentRunConfig(), settings, str(file))
    assert config.pairs.train == "scannet:work/rooms"
    assert config.distill.steps
    assert config.contrast.steps


def test_the_prefix_for_depth_is_a_configuration() -> None:
    file = EXAMPLES / "depth_prefix.yaml"
    settings = read_settings(file, "a training run")
    config = config_of(ModalityRunConfig(), settings, str(file))
    assert config.modality == "depth"
    # Every distance of this world is within the range.
    assert config.data.range().fixed == (NEAREST_M, FARTHEST_M)


def test_every_example_is_listed_and_tested() -> None:
    listed = re.findall(r"^\| \[([\w.-]+)\]\(\1\)", (EXAMPLES / "README.md").read_text(), re.M)
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh", ".yaml")}
    assert set(listed) == there
    own = Path(__file__).read_text()
    assert all(f"{name}" in own for name in there)
