"""Images that appear in a folder, with real processes."""

from __future__ import annotations

import io
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from benchmarks.harness.processes import CloudProcess
from benchmarks.links.counting_proxy import CountingProxy
from edge_client.watch.folder import Folder
from tests.watch.process import QUESTION, WatchProcess, pixels, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    folder.mkdir()
    return folder


def png(seed: int) -> bytes:
    data = io.BytesIO()
    Image.fromarray(pixels(seed)).resize((400, 400)).save(data, "PNG")
    return data.getvalue()


def test_new_images_are_asked_about(
    cloud: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    save(folder / "old.png", 0)
    with WatchProcess(folder, cloud.target, bundle_directory) as watch:
        for number, name in enumerate(("b.png", "a.jpg", "c.PNG"), 1):
            save(folder / name, number)
            (folder / f"{name}.txt").write_text("no picture")
            watch.until_lines(number)
        assert watch.end() == 0
    assert [line["file"] for line in watch.lines] == ["b.png", "a.jpg", "c.PNG"]
    for number, line in enumerate(watch.lines, 1):
        assert line["frame"] == number
        assert line["question"] == QUESTION
        assert line["payload_bytes"] > 0
        assert line["bytes_sent"] > line["payload_bytes"]
        assert set(line["edge"]) == {"preprocess", "prefix", "compress"}
        assert line["total_ms"] > 0
        assert line["time"].endswith("+00:00")


def test_a_file_is_not_read_while_it_is_written(
    cloud: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    data = png(1)
    with WatchProcess(folder, cloud.target, bundle_directory) as watch:
        with (folder / "slow.png").open("wb") as file:
            for start in range(0, len(data), max(1, len(data) // 20)):
                file.write(data[start : start + max(1, len(data) // 20)])
                file.flush()
                time.sleep(0.1)  # shorter than the interval at which files are checked
        watch.until(lambda: watch.lines)
        assert watch.end() == 0
    assert [line.get("error") for line in watch.lines] == [None]


def test_damaged_files_are_reported_and_watching_continues(
    cloud: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    with WatchProcess(folder, cloud.target, bundle_directory) as watch:
        for name, data in (("a.png", png(1)[:-200]), ("b.jpg", b"no picture"), ("c.avq", b"no")):
            (folder / name).write_bytes(data)
            watch.until_lines(len(watch.lines) + 1)
        save(folder / "d.png", 4)
        watch.until(watch.answers)
        assert watch.end(signal.SIGINT) == 0
    assert [line["file"] for line in watch.errors()] == ["a.png", "b.jpg", "c.avq"]
    assert watch.answers()[0]["file"] == "d.png"


def test_once_reads_all_files_in_the_order_of_their_names(
    cloud: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    names = [f"{number:02}.png" for number in range(8)]
    for number, name in reversed(list(enumerate(names))):
        save(folder / name, number)
    with WatchProcess(folder, cloud.target, bundle_directory, "--once") as watch:
        assert watch.process.wait(60) == 0
        watch.until_lines(len(names))
    assert [line["file"] for line in watch.answers()] == names
    assert {line["skipped"] for line in watch.lines} == {0}


def test_unchanged_images_cost_no_bytes(
    cloud: CloudProcess, bundle_directory: Path, folder: Path
) -> None:
    """Counted at the socket, where only gRPC's control messages pass meanwhile."""
    with (
        CountingProxy(cloud.port) as proxy,
        WatchProcess(
            folder, f"127.0.0.1:{proxy.port}", bundle_directory, "--on_change", "--every=0"
        ) as watch,
    ):
        save(folder / "0.png", 1)
        watch.until_lines(1)
        first = proxy.take().up
        for number in range(1, 6):
            save(folder / f"{number}.png", 1)
            time.sleep(0.6)  # long enough for the file to be noticed
        save(folder / "other.png", 2)
        watch.until_lines(2)
        assert watch.end() == 0
        both = proxy.take().up
    assert [line["file"] for line in watch.lines] == ["0.png", "other.png"]
    assert watch.lines[1]["unchanged"] + watch.lines[1]["skipped"] == 5
    assert watch.lines[1]["unchanged"] > 0
    assert 0 < both < first  # the second question alone, as the connection was open


def test_only_regular_files_are_read(folder: Path) -> None:
    """Reading a pipe would block for ever; the bytes of a file name need not be text."""
    os.mkfifo(folder / "pipe.avq")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to("/dev/zero")
    (folder / os.fsdecode(b"\xff.png")).touch()
    (folder / "other.jpg").symlink_to(os.fsdecode(b"\xff.png"))
    frames = list(Folder(folder, once=True).frames(threading.Event()))
    assert [frame.name for frame in frames] == ["other.jpg", "?.png"]
    assert all(isinstance(path := frame.load(), Path) and path.is_file() for frame in frames)


class Script(threading.Event):
    """Runs one step after each scan of the folder."""

    def __init__(self, *steps: Callable[[], object]) -> None:
        super().__init__()
        self._steps = iter(steps)

    def wait(self, timeout: float | None = None) -> bool:
        next(self._steps, self.set)()
        return self.is_set()


def test_files_that_appear_within_one_clock_tick_are_seen(folder: Path) -> None:
    def appears(name: str) -> Callable[[], None]:
        def step() -> None:
            (folder / name).touch()
            os.utime(folder, ns=(1, 1))

        return step

    watched, nothing = Folder(folder), lambda: None
    script = Script(appears("a.png"), appears("b.png"), nothing, nothing)
    assert [frame.name for frame in watched.frames(script)] == ["a.png", "b.png"]
