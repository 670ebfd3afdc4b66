"""vLLM on a CPU, for benchmarks and tests: its settings, and engine replicas as processes."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Self

START_SECONDS = 300
STOP_SECONDS = 30
ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # several engines share the cores
    "OMP_NUM_THREADS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
IN_PROCESS = ("--engine=vllm", '--vllm={"enforce_eager": true}')
"""Options of `cloud-server serve`. Eager mode skips minutes of compilation that only pay off on a
GPU."""
_REPLICA = ("--enforce-eager", "--dtype=float32", "--max-num-seqs=16")


def prepare() -> None:
    """Set the environment for every vLLM engine that this process starts."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)


class EngineProcess:
    """An engine replica on a free port of 127.0.0.1.

    A context manager: starts the process on entry, without waiting; `wait` returns once it serves.
    """

    def __init__(self, bundle: Path, model: Path) -> None:
        # The engine does not report its port, so a free one is chosen before it starts.
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port: int = probe.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._command = [
            *(sys.executable, "-m", "cloud_server.vllm_plugin", f"--bundle={bundle}"),
            *(f"--model={model}", f"--port={self.port}", *_REPLICA),
        ]

    def __enter__(self) -> Self:
        prepare()
        handle, name = tempfile.mkstemp(suffix=".log")
        self._log = Path(name)
        # A new session, so that `killpg` reaches the engine's workers as well.
        self.process = subprocess.Popen(
            self._command, stdout=handle, stderr=handle, start_new_session=True
        )
        os.close(handle)
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(timeout=STOP_SECONDS)
        self.kill()
        self._log.unlink()

    def wait(self) -> None:
        """Wait until the engine is healthy.

        Raises:
            RuntimeError: it ended or took too long; the message holds the end of its log.
        """
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self.process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.url}/health", timeout=2):
                    return
            except (urllib.error.URLError, OSError):
                time.sleep(0.5)
        raise RuntimeError(
            f"expected a healthy engine within {START_SECONDS} s, got none; the end of its log: "
            f"{self._log.read_text()[-3000:]}"
        )

    def kill(self) -> None:
        """Send SIGKILL to server and workers at once, as if the machine had failed."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
