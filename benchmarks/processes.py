"""Real processes for benchmarks, demo and tests: on 127.0.0.1, ended by their pid."""

from __future__ import annotations

import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

START_SECONDS = 90
STOP_SECONDS = 40


class CloudProcess:
    """`cloud-server serve` as a child process on a free port; healthy once entered.

    Raises:
        RuntimeError: it did not come up; the message holds its log.
    """

    def __init__(self, bundle: Path, model: Path, *options: str) -> None:
        self._command = [
            *(sys.executable, "-m", "cloud_server.cli", "serve"),
            *(f"--bundle={bundle}", f"--model={model}", "--port=0", *options),
        ]
        self._log_file = tempfile.TemporaryFile("w+")  # noqa: SIM115 - closed in __exit__

    def __enter__(self) -> Self:
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=self._log_file, text=True
        )
        line = self._first_line()
        if "serving on" not in line:
            self.process.kill()
            self.process.wait()
            raise RuntimeError(f"the cloud process did not come up: {self.log()}")
        self.port = int(line.rsplit(":", 1)[1])
        self.target = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_SECONDS)
        finally:
            self.process.kill()
            if self.process.stdout is not None:
                self.process.stdout.close()
            self._log_file.close()

    def log(self) -> str:
        """What it wrote to standard error so far."""
        self._log_file.seek(0)
        return self._log_file.read()

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(timeout=0.5):
                    return self.process.stdout.readline()
        return ""
