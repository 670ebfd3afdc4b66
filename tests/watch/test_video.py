"""Videos, cameras that disappear, and damaged frames."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from aligned_vq.errors import ConfigError, InvalidInput
from benchmarks.harness.processes import CloudProcess
from edge_client.watch.cli import open_source
from edge_client.watch.folder import Folder
from edge_client.watch.source import Frame, NewestFrame, SourceLost
from edge_client.watch.video import Video
from tests.watch.process import SIDE, WatchProcess, pixels, video


def test_a_video_is_read_at_its_own_speed(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    """Frames that arrive while a question is being answered are dropped and counted."""
    path = tmp_path / "film.mp4"
    video(path, list(range(30)), per_second=10)
    with WatchProcess(path, cloud.target, bundle_directory, "--every=0.4") as watch:
        assert watch.process.wait(60) == 0
        watch.until(lambda: watch.lines)
    numbers = [line["frame"] for line in watch.lines]
    assert numbers == sorted(set(numbers))
    assert 2 <= len(numbers) < 30
    assert sum(line["skipped"] for line in watch.lines) + len(numbers) == numbers[-1]
    assert not watch.errors()


def test_one_question_for_each_scene(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    """Noise of the video codec does not count as a change."""
    path = tmp_path / "film.mp4"
    video(path, [seed for seed in (1, 2, 3) for _ in range(20)], per_second=10)
    with WatchProcess(path, cloud.target, bundle_directory, "--on_change") as watch:
        assert watch.process.wait(60) == 0
        watch.until_lines(3)
    assert [(line["frame"] - 1) // 20 for line in watch.lines] == [0, 1, 2]


def test_grey_frames_have_the_depth_of_the_video(tmp_path: Path) -> None:
    """Of a codec that loses nothing; colour is read from the same frames with 8 bits."""
    values = np.arange(SIDE * SIDE, dtype=np.uint16).reshape(SIDE, SIDE) + 300
    path = str(tmp_path / "depth.mkv")
    with av.open(path, "w") as container:
        stream = container.add_stream("ffv1", rate=5)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "gray16le"
        frame = av.VideoFrame.from_ndarray(values, format="gray16le")
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))

    def first(modality: str) -> Any:
        source = open_source(path, once=False, modality=modality)
        return next(source.frames(threading.Event())).load()

    for modality in ("depth", "infrared"):
        np.testing.assert_array_equal(first(modality), values)
        assert first(modality).dtype == np.uint16
    assert first("rgb").mode == "RGB"
    video(tmp_path / "film.mp4", [1])
    path = str(tmp_path / "film.mp4")
    assert first("infrared").dtype == np.uint8  # refused as depth, accepted as infrared
    assert first("infrared").shape == (SIDE, SIDE)


def test_a_camera_that_is_connected_later_and_removed(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    path = tmp_path / "camera.mp4"
    with WatchProcess(path, cloud.target, bundle_directory) as watch:
        watch.until(lambda: any("is lost" in words for words in watch.messages))
        video(tmp_path / "whole.mp4", [1, 2, 3])
        (tmp_path / "whole.mp4").rename(path)
        watch.until(watch.answers)
        assert any("is back" in words for words in watch.messages)
    assert watch.process.returncode == 0


def test_sigterm_while_there_is_no_camera(
    cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    with WatchProcess("camera:7", cloud.target, bundle_directory) as watch:
        watch.until(lambda: any("/dev/video7 is lost" in words for words in watch.messages))
        assert watch.end() == 0
    assert not watch.lines
    assert not any("Traceback" in words for words in watch.messages)


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("rtsp://user:hidden@127.0.0.1:1/stream?key=hidden", "rtsp://127.0.0.1:1/stream"),
        ("rtsp:user:hidden@127.0.0.1:1/stream", "127.0.0.1:1/stream"),
        ("HTTP://user:hidden@127.0.0.1:1/stream#hidden", "HTTP://127.0.0.1:1/stream"),
    ],
)
def test_messages_never_contain_the_password_of_a_camera(
    cloud: CloudProcess, bundle_directory: Path, source: str, name: str
) -> None:
    with WatchProcess(source, cloud.target, bundle_directory) as watch:
        watch.until(lambda: any("is lost" in words for words in watch.messages))
    assert f"watching {name}\n" in watch.messages[0]
    assert not any("hidden" in words for words in watch.messages)


@pytest.mark.parametrize("share", [0.6, 0.05])
def test_a_truncated_file_is_reported(
    share: float, cloud: CloudProcess, bundle_directory: Path, tmp_path: Path
) -> None:
    whole, path = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    video(whole, list(range(10)))
    data = whole.read_bytes()
    path.write_bytes(data[: int(share * len(data))])
    with WatchProcess(path, cloud.target, bundle_directory) as watch:
        assert watch.process.wait(60) == 0
        watch.until(watch.errors)
    assert "damaged" in watch.errors()[-1]["error"]


def test_damaged_frames_are_reported_and_the_next_are_read(tmp_path: Path) -> None:
    path = tmp_path / "film.avi"
    video(path, [*[1] * 12, *[2] * 12, *[3] * 12], per_second=100)
    data = bytearray(path.read_bytes())
    first = data.index(b"movi") + 40
    data[first : first + 300] = bytes(300)
    path.write_bytes(data)
    found = [damage(frame) for frame in Video(str(path)).frames(threading.Event())]
    assert found.count("") >= 20
    assert found[-1] == ""
    (words,) = {words for words in found if words}
    assert "got a damaged one" in words


def damage(frame: Frame) -> str:
    try:
        frame.load()
    except InvalidInput as error:
        return str(error)
    return ""


class Flickering:
    """A camera that delivers two frames and then disappears, three times."""

    name = "camera"

    def __init__(self) -> None:
        self.opened = 0

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        self.opened += 1
        if self.opened % 2:
            raise SourceLost("no device")
        for number in range(2):
            yield Frame(self.opened + number, lambda: pixels(1))
        if self.opened < 6:
            raise SourceLost("unplugged")


def test_a_camera_that_disappears_is_opened_again(capfd: pytest.CaptureFixture[str]) -> None:
    newest = NewestFrame(Flickering(), all_frames=True, backoff_seconds=0.01)
    newest.start()
    numbers = []
    while not newest.ended:
        taken = newest.take(0.1)
        if taken is not None:
            numbers.append(taken[0].number)
    newest.close()
    assert numbers == [2, 3, 4, 5, 6, 7]
    messages = capfd.readouterr().err
    assert messages.count("camera is lost (no device); trying again") == 1
    assert messages.count("camera is lost (unplugged); trying again") == 2
    assert messages.count("camera is back") == 3


def test_the_newest_frame_is_kept_and_others_are_counted() -> None:
    newest = NewestFrame(Counting())
    newest.start()
    while not newest._ended:
        time.sleep(0.01)
    taken = newest.take(1)
    assert taken is not None
    assert (taken[0].number, taken[1]) == (50, 49)
    assert newest.take(0.01) is None
    assert newest.ended
    newest.close()


class Counting:
    name = "counting"

    def frames(self, stop: threading.Event) -> Iterator[Frame]:
        for number in range(1, 51):
            yield Frame(number, lambda: pixels(1))


def test_names_of_sources(tmp_path: Path) -> None:
    sources = {
        text: open_source(text, once=False)
        for text in ("camera", "camera:2", "rtsp://host/stream", "film.mp4", str(tmp_path))
    }
    assert [source.name for source in sources.values()] == [
        *("/dev/video0", "/dev/video2", "rtsp://host/stream", "film.mp4", str(tmp_path))
    ]
    assert isinstance(sources[str(tmp_path)], Folder)
    with pytest.raises(ConfigError, match="expected a folder with once") as caught:
        open_source("rtsp://user:hidden@host", once=True)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    ("address", "name"),
    [
        ("rtsp://user:hidden@host:554/1", "rtsp://host:554/1"),
        ("rtsp://hidden@host:554/1?a=b", "rtsp://host:554/1"),
        ("rtsp://host:554/1?user=me&password=hidden", "rtsp://host:554/1"),
        ("rtsp:user:hidden@host:554/1", "host:554/1"),
        ("rtsp:user:hidden@host", "host"),
        ("RTSP:USER:hidden@HOST", "HOST"),
        ("rtsp:hidden@host", "host"),
        ("rtsp:/user:hidden@host/1", "host/1"),
        ("user:hidden@host:554/1", "host:554/1"),
        ("rtsp:host/1?token=hidden", "rtsp:host/1"),
        ("rtsp://user:hid@hidden@host/1", "rtsp://host/1"),
        ("rtsp://user:hid/hidden@host/1", "rtsp://host/1"),
        ("rtsp://user:hid@hidden/e?n@host:554/1", "rtsp://..."),
        ("rtsp://user:hidden#1@host/1", "rtsp://..."),
        ("rtsp://host/1?mail=hidden@example&token=hidden", "rtsp://..."),
        ("rtsp://host/1?password=hid@hidden", "rtsp://..."),
        ("rtsp://host/1&token=hidden", "rtsp://host/1"),
        ("rtsp://host/user=me_password=hidden_channel=1.sdp", "rtsp://host/user"),
        ("rtsp://host/1;token=hidden", "rtsp://host/1"),
        ("rtsp://host/1#hidden", "rtsp://host/1"),
        ("rtsp://user%3Ahidden%40host/1", "rtsp://host/1"),
        ("rtsp://user%253Ahidden%2540host/1", "rtsp://host/1"),
        ("rtsp://host/1%3Ftoken%3Dhidden", "rtsp://host/1"),
        ("rtsp://user:hid%40hidden@host/1", "rtsp://host/1"),
        ("rtsp://host/%1b[31mhidden", "rtsp://host/"),
        (
            "HTTPS://user:hidden@[2001:db8::1]:8443/live.m3u8?sig=hidden",
            "HTTPS://[2001:db8::1]:8443/live.m3u8",
        ),
        ("concat:http://u:hidden@a/1|http://u:hidden@b/2", "..."),
        ("cache:http://user:hidden@host/1", "host/1"),
        ("srt://host:9000?passphrase=hidden&mode=caller", "srt://host:9000"),
        ("udp://@239.0.0.1:1234", "udp://239.0.0.1:1234"),
    ],
)
def test_the_name_of_a_url_contains_no_secret(address: str, name: str) -> None:
    source = open_source(address, once=False)
    assert source.name == name
    assert "hidden" not in source.name
    with pytest.raises(ConfigError) as caught:
        open_source(address, once=True)
    assert "hidden" not in str(caught.value)


@pytest.mark.parametrize(
    "name", ["film.mp4", "a film; part=1, take 2.mp4", "/dev/video0", "50%.avi"]
)
def test_the_name_of_a_file_is_unchanged(name: str) -> None:
    assert open_source(name, once=False).name == name
