"""Real processes for demo, benchmarks and tests: on 127.0.0.1, ended by their pid."""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Self

START_SECONDS = 240


class ServerProcess:
    """A child process that says where it serves; ready once entered.

    Args:
        module: run by this Python.
        arguments: of its command line.

    Raises:
        RuntimeError: it did not come up; the message holds its log.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def by(self, *command: str) -> Self:
        """Let a command start it that becomes it, such as `ip netns exec NAME`."""
        self._command = [*command, *self._command]
        return self

    def run_by(self, python: Path) -> Self:
        """Let another Python run it than this one."""
        self._command[self._command.index(sys.executable)] = str(python)
        return self

    def __enter__(self) -> Self:
        # A file, not a pipe: a pipe that nobody reads fills up and stops the process.
        handle, name = tempfile.mkstemp(suffix=".log")
        self._log_file = Path(name)
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=handle, text=True
        )
        os.close(handle)
        line = self._first_line()
        if "serving on" not in line:
            self.process.kill()
            self._ended()
            raise RuntimeError(f"no service: {line} {self.log}")
        self.port = int(line.rsplit(":", 1)[1])
        self.target = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=40)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._ended()

    @property
    def log(self) -> str:
        """What the process wrote to stderr so far; all of it once it ended."""
        return (
            # gRPC's own lines may hold a peer's bytes.
            self._log_file.read_text(errors="replace")
            if self._log_file.exists()
            else self._last_log
        )

    def resident_bytes(self) -> int:
        """Memory of the process now."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _ended(self) -> None:
        self.process.communicate()
        self._last_log = self.log
        self._log_file.unlink()

    def _first_line(self) -> str:
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            while time.monotonic() < deadline:
                if selector.select(timeout=0.5):
                    return self.process.stdout.readline()
        return ""


class CloudProcess(ServerProcess):
    """`cloud-server serve` on a free port; `http` is where operators look, if anywhere."""

    def __init__(self, bundle: Path, model: Path, *options: str) -> None:
        super().__init__(
            "cloud_server.cli",
            *("serve", f"--bundle={bundle}", f"--model={model}", "--port=0", *options),
        )

    def __enter__(self) -> Self:
        super().__enter__()
        self.http = ""
        if any(option.startswith("--http_port") for option in self._command):
            assert self.process.stdout is not None
            self.http = self.process.stdout.readline().split()[-1]
        return self


class GatewayProcess(ServerProcess):
    """`edge-client serve` on a free port; `url` is where it speaks HTTP."""

    def __init__(self, target: str, bundle: Path, *options: str) -> None:
        super().__init__(
            "edge_client.cli",
            *("serve", f"--target={target}", f"--bundle={bundle}", "--port=0", *options),
        )

    @property
    def url(self) -> str:
        """Of the gateway, without a path."""
        return f"http://{self.target}"
