"""An edge encoder in a separate process: one image encoded per request.

`python -m benchmarks.harness.edge_process BUNDLE BACKEND THREADS` writes one JSON object to
standard output for every line on standard input.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.json_process import JsonProcess


class EdgeProcess(JsonProcess):
    """Starts the process and sends it requests; a context manager.

    Args:
        bundle: directory of the bundle.
        backend: "onnx" or "torch".
        threads: number of threads of the backend; 0: the backend's default.
    """

    def __init__(self, bundle: Path, backend: str, threads: int = 0) -> None:
        module = [sys.executable, "-m", "benchmarks.harness.edge_process"]
        super().__init__([*module, str(bundle), backend, str(threads)])

    def encode(self) -> Mapping[str, Any]:
        """Encode one image: `ms`, milliseconds by stage, and `peak_mb`, the peak memory so far.

        Raises:
            RuntimeError: the process ended; the cause is on stderr.
        """
        return self.request(None)


def peak_memory_mb() -> float:
    """Peak resident memory of this process in MB.

    `getrusage` would include the parent's memory between fork and exec.
    """
    status = Path("/proc/self/status").read_text()
    # VmHWM is the high-water mark of the resident set, in KiB.
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def main(bundle: str, backend: str, threads: str) -> None:
    """Encode 640 x 480 noise for every line on stdin, with the same seed for every backend."""
    # Imported here, because the parent process imports this module only for the class above.
    import numpy as np

    from aligned_vq.images.load import load_image
    from edge_client.encoder import EdgeEncoder

    encoder = EdgeEncoder(bundle, backend, threads=int(threads))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in sys.stdin:
        noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
        encoded = encoder.encode(load_image(noise))
        response = {
            "ms": {stage: ns / 1e6 for stage, ns in encoded.timings.stages_ns.items()},
            "peak_mb": peak_memory_mb(),
        }
        print(json.dumps(response), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
