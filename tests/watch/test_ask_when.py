"""Watching with labels: the cloud is asked only where they say so."""

from __future__ import annotations

import socket
from pathlib import Path

import av
import numpy as np
import pytest

from aligned_vq.errors import ConfigError
from aligned_vq.shipped import BUNDLE
from benchmarks.harness.processes import CloudProcess
from edge_client.classifier.classifier import EdgeClassifier
from edge_client.cli import main
from edge_client.watch.labels import FrameLabels, parse_condition
from tests.classifier.bundles import plain, write_bundle
from tests.watch.process import SIDE, WatchProcess

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
FILM = ("green", "red", "blue", "red", "green")


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_bundle(tmp_path_factory.mktemp("classifier") / "bundle")


def film(path: Path, *names: str) -> None:
    """A video with a frame of each colour."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=5)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        for name in names:
            pixels = np.full((SIDE, SIDE, 3), COLOURS[name], np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))


def test_only_some_frames_are_asked_about(
    cloud: CloudProcess, bundle_directory: Path, classifier: Path, tmp_path: Path
) -> None:
    for number, name in enumerate(FILM):
        plain(COLOURS[name]).save(tmp_path / f"{number}-{name}.png")
    options = ("--labels=red,green,blue wall", "--ask_when=red>0.6 or blue wall>1")
    with WatchProcess(
        tmp_path, cloud.target, bundle_directory, "--once", f"--classifier={classifier}", *options
    ) as watch:
        assert watch.process.wait(60) == 0
        watch.until_lines(5)
    best = {line["file"]: max(line["labels"], key=line["labels"].get) for line in watch.lines}
    assert [best[name].split()[0] for name in sorted(best)] == [*FILM]
    assert [line["file"] for line in watch.answers()] == ["1-red.png", "3-red.png"]
    others = [line for line in watch.lines if "answer" not in line]
    assert [line["asked"] for line in others] == [False] * 3
    assert not any("question" in line for line in others)


def test_no_question_no_connection(classifier: Path, tmp_path: Path) -> None:
    """A video, of which no frame is to be asked about, is watched without any cloud."""
    film(tmp_path / "film.mp4", "red", "green", "red", "green")
    options = (f"--classifier={classifier}", "--ask_when=blue>0.6")
    with socket.create_server(("127.0.0.1", 0)) as cloud:
        target = f"127.0.0.1:{cloud.getsockname()[1]}"
        with WatchProcess(tmp_path / "film.mp4", target, BUNDLE, *options) as watch:
            assert watch.process.wait(60) == 0
            watch.until_lines(1)
        cloud.setblocking(False)
        with pytest.raises(BlockingIOError):
            cloud.accept()
    for line in watch.lines:
        assert line["asked"] is False
        assert max(line["labels"], key=line["labels"].get) == ("green", "red")[line["frame"] % 2]


def test_conditions() -> None:
    labels = ("left or right", "stairs", "kitchen", "area 51 or base")
    terms = parse_condition("left or right>0.5 or stairs < .25 or kitchen>1", labels)
    assert [(own.label, own.is_above, own.probability) for own in terms] == [
        ("left or right", True, 0.5),
        ("stairs", False, 0.25),
        ("kitchen", True, 1.0),
    ]
    assert not terms[0].holds({"left or right": 0.5})
    assert terms[1].holds({"stairs": 0.2})
    terms = parse_condition("stairs>0.5 or area 51 or base<0.1", labels)
    assert [own.label for own in terms] == ["stairs", "area 51 or base"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("stairs", "got 'stairs'"),
        ("stairs>1.5", "P from 0 to 1"),
        ("stairs>=0.5", "expected ask_when"),
        ("stairs>0.5 and kitchen>0.5", "expected ask_when"),
        ("stairs>0.5 or ", "expected ask_when"),
        ("bath>0.5", r"\(stairs, kitchen\), got 'bath'"),
    ],
)
def test_conditions_that_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        parse_condition(text, ("stairs", "kitchen"))


def test_labels_that_are_refused(classifier: Path) -> None:
    with pytest.raises(ConfigError, match="labels: expected distinct labels"):
        FrameLabels(EdgeClassifier(classifier), ["red", "red"], "")


def test_frames_that_are_certain_help_those_after_them(classifier: Path) -> None:
    with EdgeClassifier(classifier) as own:
        plainly, adapted = (
            FrameLabels(own, ["red", "green"], "", adapt=on) for on in (False, True)
        )
        frames = [plain(COLOURS[name]) for name in ("red", "red", "green")]
        without, with_state = (
            [labels.of(frame, "")["red"] for frame in frames] for labels in (plainly, adapted)
        )
        assert without[0] == without[1] == with_state[0]
        assert with_state[1] > without[1]
        # Another stream has a state of its own.
        other = FrameLabels(own, ["red", "green"], "", adapt=True)
        assert other.of(frames[0], "")["red"] == without[0]


def test_adaptation_needs_labels(capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--source=camera", "--ask=What?", f"--bundle={BUNDLE}", "--adapt"]
    assert main(["watch", *options]) == 1
    assert "expected labels beside adapt" in capsys.readouterr().err
