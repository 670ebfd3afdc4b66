"""An edge in a process of its own that encodes one picture whenever it is asked to.

`python -m benchmarks.harness.edge_process BUNDLE BACKEND THREADS` answers each line with a JSON
object.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.harness.json_process import JsonProcess


class EdgeProcess(JsonProcess):
    """The process as its user sees it; a context manager.

    Args:
        bundle: its directory.
        backend: "onnx" or "torch".
        threads: of the backend; 0 leaves them to it.
    """

    def __init__(self, bundle: Path, backend: str, threads: int = 0) -> None:
        module = [sys.executable, "-m", "benchmarks.harness.edge_process"]
        super().__init__([*module, str(bundle), backend, str(threads)])

    def encode(self) -> Mapping[str, Any]:
        """One picture: milliseconds by stage, and peak memory of the process so far.

        Raises:
            RuntimeError: the process ended; its words are on stderr.
        """
        return self.told(None)


def _peak_mb() -> float:
    """Largest resident memory of this process; `getrusage` would count its parent's before exec."""
    status = Path("/proc/self/status").read_text()
    (kilobytes,) = (line.split()[1] for line in status.splitlines() if line.startswith("VmHWM"))
    return int(kilobytes) * 1024 / 1e6


def main(bundle: str, backend: str, threads: str) -> None:
    """Encode noise, 640 x 480, for every line on stdin; the same for every backend."""
    import numpy as np

    from aligned_vq.images.load import load_image
    from edge_client.encoder import EdgeEncoder

    encoder = EdgeEncoder(bundle, backend, threads=int(threads))  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    for _ in sys.stdin:
        noise = rng.integers(0, 256, (480, 640, 3), np.uint8)
        encoded = encoder.encode(load_image(noise))
        told = {
            "ms": {stage: ns / 1e6 for stage, ns in encoded.timings.stages_ns.items()},
            "peak_mb": _peak_mb(),
        }
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
