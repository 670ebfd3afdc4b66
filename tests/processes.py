"""Real processes for the tests: started on a free port of 127.0.0.1, ended by their pid."""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
import tempfile
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

        self._log = tempfile.NamedTemporaryFile(suffix=".log")  # noqa: SIM115 - lives as long as self

    @property
    def log(self) -> str:
        """What the process wrote to stderr so far; a pipe nobody reads would fill up and stop it."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log, text=True
        )
        line = self._first_line()
        if "serving on" not in line:
            self.process.kill()
            self.process.communicate()
            raise RuntimeError(f"no service: {line} {self.log}")
        self.port = int(line.rsplit(":", 1)[1])
        self.target = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.communicate(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
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
