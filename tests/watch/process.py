"""`edge-client watch` as a child process, and what it is shown."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import av
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tests import commands
from tests.privacy import SECRETS

SIDE = 64
LIMIT_S = 60.0
QUESTION = "What colour is the star?"

Line = dict[str, Any]


class WatchProcess:
    """A running `edge-client watch`: its JSON lines and its messages on stderr so far."""

    def __init__(self, source: str | Path, target: str, bundle: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "edge_client.cli", "watch", f"--source={source}"),
            *(f"--ask={QUESTION}", f"--target={target}", f"--bundle={bundle}", "--max_tokens=4"),
            *options,
        ]
        self.lines: list[Line] = []
        self.messages: list[str] = []

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self._readers = [
            threading.Thread(target=self._read, args=(self.process.stdout, self._line)),
            threading.Thread(target=self._read, args=(self.process.stderr, self.messages.append)),
        ]
        for reader in self._readers:
            reader.start()
        self.until(lambda: any("watching" in words for words in self.messages))
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def end(self, by: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal if it still runs, and return the exit status."""
        if self.process.poll() is None:
            os.kill(self.process.pid, by)
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for reader in self._readers:
                reader.join(10)
            for pipe in (self.process.stdout, self.process.stderr):
                assert pipe is not None
                pipe.close()
        commands.STDERR.append("".join(self.messages))
        return self.process.returncode

    def until(self, condition: Callable[[], object]) -> None:
        """Wait until the condition holds; fails if the process ends before, or after `LIMIT_S`."""
        deadline = time.monotonic() + LIMIT_S
        while not condition():
            ended = self.process.poll() is not None and not any(r.is_alive() for r in self._readers)
            assert not ended or condition(), f"it ended: {self.lines} {self.messages}"
            assert time.monotonic() < deadline, f"{self.lines} {self.messages}"
            time.sleep(0.02)

    def until_lines(self, count: int) -> None:
        """Wait for so many lines."""
        self.until(lambda: len(self.lines) >= count)

    def answers(self) -> list[Line]:
        return [line for line in self.lines if "answer" in line]

    def errors(self) -> list[Line]:
        return [line for line in self.lines if "error" in line]

    def _line(self, text: str) -> None:
        line: Line = json.loads(text)
        SECRETS.add_text("question", QUESTION)
        SECRETS.add_text("answer", line.get("answer", ""))
        self.lines.append(line)

    @staticmethod
    def _read(pipe: Any, take: Callable[[str], None]) -> None:
        for text in pipe:
            take(text)


def pixels(seed: int) -> NDArray[np.uint8]:
    """An image of large plain squares, which a video codec preserves."""
    squares = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return np.ascontiguousarray(squares.repeat(SIDE // 4, 0).repeat(SIDE // 4, 1))


def save(path: Path, seed: int) -> None:
    """Write an image that appears in the folder complete."""
    hidden = path.with_name(f".{path.name}")
    Image.fromarray(pixels(seed)).save(hidden, "PNG")
    hidden.rename(path)


def video(path: Path, seeds: Iterator[int] | list[int], per_second: int = 5) -> None:
    """A video of MPEG-4, a frame for each seed."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=per_second)
        stream.width = stream.height = SIDE
        stream.pix_fmt = "yuv420p"
        stream.bit_rate = 4_000_000
        for seed in seeds:
            frame = av.VideoFrame.from_ndarray(pixels(seed), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
