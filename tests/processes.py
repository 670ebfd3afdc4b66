"""Real processes for the tests: started on a free port of 127.0.0.1, ended by their pid."""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Self

START_SECONDS = 60


class CloudProcess:
    """`cloud-server serve` as a child process; ready when the constructor's `with` is entered."""

    def __init__(self, bundle: Path, model: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "cloud_server.cli", "serve"),
            *(f"--bundle={bundle}", f"--model={model}", "--port=0", *options),
        ]

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        line = self._first_line()
        if "serving on" not in line:
            self.process.kill()
            raise RuntimeError(f"no service: {line} {self.process.communicate()[1]}")
        self.port = int(line.rsplit(":", 1)[1])
        self.target = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.log = self.process.communicate(timeout=40)[1]
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.log = self.process.communicate()[1]
            raise

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(timeout=0.5):
                    return self.process.stdout.readline()
        return ""
