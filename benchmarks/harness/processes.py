"""Server processes for the demo, benchmarks and tests: on 127.0.0.1, each ended by its pid."""

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
    """A child process that prints "serving on HOST:PORT" once it serves.

    A context manager: the process serves when `__enter__` returns and gets SIGTERM on exit.

    Args:
        module: started with `python -m`, by the interpreter of this process.
        arguments: command-line arguments of the module.

    Raises:
        RuntimeError: the process did not start to serve; the message holds its log.
    """

    def __init__(self, module: str, *arguments: str) -> None:
        self._command = [sys.executable, "-m", module, *arguments]

    def launched_by(self, *command: str) -> Self:
        """Start it by a command that replaces itself with it, such as `ip netns exec NAME`."""
        self._command = [*command, *self._command]
        return self

    def with_interpreter(self, python: Path) -> Self:
        """Run the module by another Python interpreter."""
        self._command[self._command.index(sys.executable)] = str(python)
        return self

    def __enter__(self) -> Self:
        # A file, not a pipe: a pipe that nobody reads fills up and blocks the process.
        handle, name = tempfile.mkstemp(suffix=".log")
        self._log_file = Path(name)
        self.process = subprocess.Popen(
            self._command, stdout=subprocess.PIPE, stderr=handle, text=True
        )
        os.close(handle)
        line = self._first_line()
        if "serving on" not in line:
            self.process.kill()
            self._reap()
            raise RuntimeError(
                f"expected `{' '.join(self._command)}` to serve, got {line!r}; its log: {self.log}"
            )
        self.port = int(line.rsplit(":", 1)[1])
        self.target = f"127.0.0.1:{self.port}"
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(timeout=40)  # longer than a service drains running answers
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self._reap()

    @property
    def log(self) -> str:
        """Everything that the process has written to stderr."""
        return (
            # Lines written by gRPC may contain a peer's bytes, which need not be UTF-8.
            self._log_file.read_text(errors="replace")
            if self._log_file.exists()
            else self._last_log
        )

    def resident_bytes(self) -> int:
        """Current resident memory of the process."""
        pages = Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def _reap(self) -> None:
        """Wait for the process, and keep its log when the file is removed."""
        self.process.communicate()
        self._last_log = self.log
        self._log_file.unlink()

    def _first_line(self) -> str:
        """The first line on stdout; empty after `START_SECONDS` or when the process ended."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            # Not a plain `readline`, which would wait for ever for a process that hangs.
            while time.monotonic() < deadline:
                if selector.select(timeout=0.5):
                    return self.process.stdout.readline()
        return ""


class CloudProcess(ServerProcess):
    """`cloud-server serve` on a free port; `http` is the URL of its HTTP port, if it has one."""

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
            # The service prints the gRPC address first, then that of its HTTP port.
            self.http = self.process.stdout.readline().split()[-1]
        return self


class GatewayProcess(ServerProcess):
    """`edge-client serve`, the gateway, on a free port."""

    def __init__(self, target: str, bundle: Path, *options: str) -> None:
        super().__init__(
            "edge_client.cli",
            *("serve", f"--target={target}", f"--bundle={bundle}", "--port=0", *options),
        )

    @property
    def url(self) -> str:
        """The base URL of the gateway."""
        return f"http://{self.target}"
